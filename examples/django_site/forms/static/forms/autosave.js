// Autosaves the answers, a second after the last change and when the page is left.
"use strict";

const form = document.querySelector("form[data-autosave]");
const status = form.querySelector("[data-status]");
const PAUSE_MS = 1000;
const RETRY_MS = 5000;
let timer = null;
let isDirty = false;
let isSending = false;

function answers() {
  const fields = form.querySelectorAll("[data-answer]");
  return Object.fromEntries(Array.from(fields, (field) => [field.name, field.value]));
}

function saveIn(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(save, milliseconds);
}

async function save() {
  if (!isDirty || isSending) return;
  isDirty = false;
  isSending = true;
  try {
    const answer = await fetch(form.dataset.autosave, {
      method: "POST",
      keepalive: true, // also while the page is being left
      headers: {
        "Content-Type": "application/json",
        "X-CSRFToken": form.elements.csrfmiddlewaretoken.value,
      },
      body: JSON.stringify({ entry: form.elements.entry.value, answers: answers() }),
    });
    if (answer.status === 409) {
      status.textContent = "This form was already sent.";
    } else if (answer.status === 400) {
      status.textContent = "Not saved: an answer is invalid.";
    } else if (!answer.ok) {
      throw new Error(answer.statusText);
    } else {
      status.textContent = "Saved.";
    }
  } catch {
    status.textContent = "Not saved yet.";
    isDirty = true;
  }
  isSending = false;
  if (isDirty) saveIn(status.textContent === "Not saved yet." ? RETRY_MS : PAUSE_MS);
}

form.addEventListener("input", () => {
  isDirty = true;
  status.textContent = "";
  saveIn(PAUSE_MS);
});
form.addEventListener("submit", () => {
  clearTimeout(timer);
  isDirty = false;
  form.querySelector("button").disabled = true; // prevents a second request
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") save();
});
// A page restored from the browser's history can be sent again.
window.addEventListener("pageshow", () => { form.querySelector("button").disabled = false; });
