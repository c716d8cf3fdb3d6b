// answers.js of `python -m pipeline.demo`: the server that gave the page answers.
async function answer(blob) {
  const path = document.getElementById("crop").checked ? "/crop" : "/predict";
  const found = await (await fetch(path, { method: "POST", body: blob })).json();
  if (found.error) throw new Error(found.error);
  return found;
}
