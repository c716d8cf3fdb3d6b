// The page: pictures in, tables out. answers.js, its source of answers, gives answer(blob).
const at = (id) => document.getElementById(id);

let turn = 0; // of the picture sent last: an older answer that comes later is left out
let sent = null; // that picture

async function send(blob) {
  const own = ++turn;
  sent = blob;
  at("error").textContent = "";
  at("status").textContent = "Looking …";
  at("faces").replaceChildren();
  at("picture").hidden = true;
  at("weights").textContent = "";
  try {
    const found = await answer(blob);
    if (own !== turn) return;
    at("status").textContent = told(found.faces);
    at("weights").textContent = found.weights;
    at("picture").src = found.picture;
    at("picture").alt = found.faces.map((face) => face.expression).join(", ");
    at("picture").hidden = false;
    at("faces").replaceChildren(...found.faces.map(table));
  } catch (error) {
    if (own !== turn) return;
    at("status").textContent = "";
    at("error").textContent = error.message;
  }
}

// The answer in a line, which a screen reader says.
function told(faces) {
  const each = faces.map((face) => `${face.expression} ${face.probabilities[face.expression].toFixed(2)}`);
  return `${faces.length} ${faces.length === 1 ? "face" : "faces"}: ${each.join(", ")}`;
}

function table(face, index) {
  const names = Object.keys(face.probabilities);
  const result = document.createElement("table");
  result.createCaption().textContent = `Face ${index + 1}, ${face.how}`;
  row(result, ["unit", ...names], "col");
  for (const [unit, own] of Object.entries(face.units)) row(result, [unit, ...names.map((name) => own[name].toFixed(2))]);
  row(result, ["vote", ...names.map((name) => face.probabilities[name].toFixed(2))]).className = "vote";
  return result;
}

// A row whose first cell is its header; with scope "col" all cells are headers.
function row(table, texts, scope = "row") {
  const result = table.insertRow();
  texts.forEach((text, place) => {
    const header = scope === "col" || place === 0;
    const cell = result.appendChild(document.createElement(header ? "th" : "td"));
    if (header) cell.scope = scope;
    cell.textContent = text;
  });
  return result;
}

at("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be chosen once more
  if (file) send(file);
});
at("crop").addEventListener("change", () => sent && send(sent));
at("drop").addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
at("drop").addEventListener("dragleave", () => at("drop").classList.remove("over"));
at("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
});
at("camera").addEventListener("click", async () => {
  const video = at("video");
  at("camera").disabled = true; // a second click while the browser asks would open a second camera
  try {
    if (!navigator.mediaDevices) throw new Error("browsers give it to pages of https and of this machine alone");
    if (!video.srcObject) {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
      video.hidden = false;
      at("camera").textContent = "Take the picture";
      return;
    }
    if (!video.videoWidth) throw new Error("it has shown no picture yet; try again");
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    video.srcObject.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    video.hidden = true;
    at("camera").textContent = "Use the camera";
    canvas.toBlob(send, "image/png");
  } catch (error) {
    at("error").textContent = `No camera: ${error.message}`;
  } finally {
    at("camera").disabled = false;
  }
});
