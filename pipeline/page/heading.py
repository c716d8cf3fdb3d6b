"""The top of the page: what was compared, on what and when, what to know before any number, and the headline."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.metrics import DASH
from pipeline.page.html import Section, Table, Text, counted, duration, flatten, listed, method_name, percent
from pipeline.page.inputs import FER2013, Inputs, collapsed, method_of, name_of, scores_of, seconds_of
from pipeline.runs.records import Run

ESTIMATORS = {
    "eq4": "HSIC as the paper prints it",
    "normalised_hsic": "normalised HSIC",
    "cka": "HSIC scaled as CKA",
    "debiased_cka": "HSIC without bias, scaled as CKA",
    "similarity_matching": "similarity matching",
}


class Heading(NamedTuple):
    """What stands above the first section; `facts` are names with values."""

    title: str
    introduction: list[str]
    facts: list[tuple[str, str]]
    alerts: list[Text]
    cards: list[tuple[str, str, str]]


def heading(inputs: Inputs) -> Heading:
    """The top of the page."""
    title = "Facial expressions" if inputs.expressions else "Images"
    return Heading(
        title=f"{title}, learnt with and without back-propagation",
        introduction=list(introduction(inputs)),
        facts=list(facts(inputs)),
        alerts=list(alerts(inputs)),
        cards=cards(inputs),
    )


def introduction(inputs: Inputs) -> Iterator[str]:
    """What the network does, and what each method minimises."""
    about = inputs.about
    what = "the expression of a" if inputs.expressions else "the class of a"
    tint = {1: "grey ", 3: "colour "}.get(about.channels, "")
    yield (
        f"{network(inputs)} names {what} {about.side}×{about.side} {tint}"
        f"{'face' if inputs.expressions else 'image'}: {listed(about.classes, 'or')}. "
        "Back-propagation (BP) trains it by one loss, whose gradient travels through the whole network. "
        "Training without it (NBP) cuts the network into units. Each unit learns from a loss of its own. "
        "No gradient passes from one unit to the next. "
        "Network, initial weights, order of the faces and optimiser are the same for all methods of one seed."
    )
    yield from objectives(inputs)


def network(inputs: Inputs) -> str:
    """What the network is called."""
    name = inputs.runs[0].about.parameters["model"]["name"]
    return "A cascaded feature pyramid network (CFPN)" if name == "cfpn" else f"The network {name}"


def objectives(inputs: Inputs) -> Iterator[str]:
    """What the hidden units of each method minimise, methods that do the same in one sentence, and what HSIC is."""
    found: dict[str, list[str]] = {}
    for method in inputs.methods:
        if text := objective(method_of(inputs.of(method)[0])):
            found.setdefault(text, []).append(method_name(method))
    yield from (f"{listed(methods)}: {text}" for text, methods in found.items())
    if any("HSIC" in text for text in found):
        yield (
            "HSIC, the Hilbert-Schmidt independence criterion, measures how much two things depend on each other: here "
            "a unit's features, the label and the image. The last unit minimises the cross-entropy of the network's "
            "classifier."
        )


def objective(how: Mapping[str, Any]) -> str:
    """What a hidden unit minimises, in words; empty where there is none."""
    loss = how.get("local_loss") or {}
    if how.get("units", "network") == "network" or not loss:
        return ""
    parts = [*classifier_term(loss), *hsic_term(loss)]
    together = " All units' classifiers predict together." if how.get("vote") else ""
    passes = " Gradients do pass from unit to unit: this is a control." if how.get("gradients") == "pass" else ""
    return f"a hidden unit minimises {listed(parts)}.{together}{passes}"


def classifier_term(loss: Mapping[str, Any]) -> Iterator[str]:
    """The part of the unit's own classifier."""
    if weight := loss.get("classifier_weight", 0.0):
        means = (loss.get("classifier") or {}).get("name") == "class_means"
        what = "a softmax over the class means of the batch" if means else "a small classifier of its own"
        yield f"the cross-entropy of {what}{'' if weight == 1 else f' (weight {weight:g})'}"


def hsic_term(loss: Mapping[str, Any]) -> Iterator[str]:
    """The part of HSIC, or of another objective in its place."""
    if weight := loss.get("hsic_weight", 0.0):
        term = loss.get("hsic") or {}
        estimator = term.get("estimator", "")
        small = weight < loss.get("classifier_weight", 0.0)
        if estimator not in ESTIMATORS:  # an objective of the user's
            yield f"{'a small' if small else 'a'} term {estimator} (weight {weight:g})"
            return
        beta = f", beta {term['beta']:g}" if "beta" in term else ""
        yield f"{'a small' if small else 'an'} HSIC term (weight {weight:g}; {ESTIMATORS[estimator]}{beta})"


def facts(inputs: Inputs) -> Iterator[tuple[str, str]]:
    """Profile, data, date, code, machine and time."""
    drawn = " (generated faces, not FER2013)" if inputs.drawn and inputs.expressions else ""
    yield "Profile", str(inputs.settings["profile"])
    yield "Data", f"{inputs.settings['source']}{drawn}"
    yield "Splits", f"epoch chosen on {inputs.names['val']}, reported on {inputs.names['test']}"
    yield "Page of", inputs.date
    commits = sorted({str(one.about.code.get("commit") or "unknown") for one in inputs.runs})
    yield "Commit of the code", ", ".join(commits)
    yield "Machine", "; ".join(dict.fromkeys(machine(one) for one in inputs.runs))
    times = [time for one in inputs.runs if (time := seconds_of(one))]
    if times:
        yield "Training time", f"{duration(sum(times))} for {counted(len(times), 'run')}"


def machine(one: Run) -> str:
    """Device, threads and workers of a run."""
    name = one.about.device.upper() if one.about.device in ("cpu", "cuda") else one.about.device
    return f"{name}, {counted(one.about.threads, 'thread')}, {counted(one.about.workers, 'worker')}"


def cards(inputs: Inputs) -> list[tuple[str, str, str]]:
    """Per method: name, mean test accuracy, and how sure it is."""
    result = []
    for method in inputs.methods:
        scores = [one.scores for one in inputs.of(method) if one.scores]
        values = [score["accuracy"] for score in scores]
        if len(values) == 1:
            below = f"± {100 * scores[0]['accuracy_standard_error']:.1f} points, standard error"
        else:
            below = f"mean of {len(values)} seeds, {percent(min(values))} to {percent(max(values))}" if values else ""
        result.append((method_name(method), percent(np.mean(values)) if values else DASH, below))
    return result


def alerts(inputs: Inputs) -> Iterator[Text]:
    """What a reader has to know before any number."""
    if inputs.drawn:
        yield Text(
            "The faces on this page are generated: drawn by the sample stage in FER2013's layout so that the workflow "
            "runs without the real data. The numbers show that the workflow works; they are not FER2013 results.",
            "note",
        )
    yield from row_counts(inputs)
    for one in inputs.runs:
        if collapsed(one):
            yield Text(f"{name_of(one)} has collapsed: {collapse(one)}. It has learnt nothing of use.", "warning")


def row_counts(inputs: Inputs) -> Iterator[Text]:
    """A box where real faces in FER2013's form are not as many as FER2013 has."""
    if inputs.expressions and not inputs.drawn and inputs.counts != FER2013:
        found, published = (
            " / ".join(f"{count:,}" for count in counts.values()) for counts in (inputs.counts, FER2013)
        )
        yield Text(
            f"FER2013 as published has {published} faces for training, validation and test. The data of this page have "
            f"{found}. Scores on other faces are not comparable with published ones.",
            "note",
        )


def collapse(one: Run) -> str:
    """The numbers of a collapsed run."""
    if not scores_of(one).get("collapsed"):
        return "in training its validation accuracy is not above the share of the largest class"
    accuracy, majority = (percent(scores_of(one)[name]) for name in ("accuracy", "majority_accuracy"))
    return f"test accuracy {accuracy} against {majority} for naming the largest class every time"


def settings_section(inputs: Inputs) -> Section:
    """The parameters behind the page, as the runs hold them."""
    first = inputs.runs[0].about.parameters
    chosen = {name: inputs.settings[name] for name in ("profile", "source", "run")}
    chosen |= {name: value for name, value in first.items() if name != "method"}
    chosen["methods"] = {method: method_of(inputs.of(method)[0]) for method in inputs.methods}
    rows = [[name, value] for name, value in flatten(chosen) if value != "None"]
    return Section("Settings", [Table("As the runs were trained", ("Parameter", "Value"), rows, (0, 1))])
