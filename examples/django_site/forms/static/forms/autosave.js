// Sends what is filled in so far, a second after the last change and when the page is left.
"use strict";

const form = document.querySelector("form[data-autosave]");
const status = form.querySelector("[data-status]");
const PAUSE_MS = 1000;
const LATER_MS = 5000;
let timer = null;
let isDirty = false;
let isSending = false;

function answers() {
  const fields = form.querySelectorAll("[data-answer]");
  return Object.fromEntries(Array.from(fields, (field) => [field.name, field.value]));
}

function later(milliseconds) {
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
      keepalive: true, // also of a page that is being left
      headers: {
        "Content-Type": "application/json",
        "X-CSRFToken": form.elements.csrfmiddlewaretoken.value,
      },
      body: JSON.stringify({ entry: form.elements.entry.value, answers: answers() }),
    });
    if (answer.status === 409) {
      status.textContent = "This has been sent.";
    } else if (answer.status === 400) {
      status.textContent = "Not saved: something in it cannot be taken.";
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
  if (isDirty) later(status.textContent === "Not saved yet." ? LATER_MS : PAUSE_MS);
}

form.addEventListener("input", () => {
  isDirty = true;
  status.textContent = "";
  later(PAUSE_MS);
});
form.addEventListener("submit", () => {
  clearTimeout(timer);
  isDirty = false;
  form.querySelector("button").disabled = true; // a second press would only be a second request
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") save();
});
// A page that comes back from the browser's history may be sent again.
window.addEventListener("pageshow", () => { form.querySelector("button").disabled = false; });
