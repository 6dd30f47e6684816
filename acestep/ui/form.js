// What a form does by itself in the browser: a complaint stands under the field it is about until
// that field is edited, and number boxes bring up the number keys. Gradio runs this once per form,
// with `element`, `props` and `watch` of the component that carries the complaints.
const PATIENCE = 40, PAUSE = 50; // looks, and milliseconds between them
let line = null;

function clear() {
  if (line === null) return;
  for (const part of line.parentElement?.querySelectorAll("[aria-invalid]") ?? []) {
    part.removeAttribute("aria-invalid");
    part.removeAttribute("aria-describedby");
  }
  line.remove();
  line = null;
}

function put(block, message) {
  line = document.createElement("p");
  line.id = `${block.id}-complaint`;
  line.className = "complaint warning";
  line.setAttribute("role", "alert");
  line.textContent = message;
  block.append(line);
  const part = block.querySelector("input, textarea, button");
  part?.setAttribute("aria-invalid", "true");
  part?.setAttribute("aria-describedby", line.id);
  part?.focus();
  for (const kind of ["input", "change"]) block.addEventListener(kind, clear, { once: true });
}

async function show() {
  clear();
  const { field, accordion, message } = props.value ?? {};
  for (let look = 0; message && look < PATIENCE; look++) {
    const block = document.getElementById(field);
    if (block && block.offsetParent !== null) return put(block, message);
    // Gradio draws what an accordion holds once it has been opened.
    if (look === 0 && accordion) document.querySelector(`#${accordion} > button`)?.click();
    await new Promise((resume) => setTimeout(resume, PAUSE));
  }
  if (message) put(element, message); // its field is hidden
}

watch("value", show);
for (const kind of ["pointerdown", "focusin"])
  document.addEventListener(kind, ({ target }) => {
    const box = target.closest?.(".number")?.querySelector("input");
    if (box) box.inputMode = "decimal";
  });
