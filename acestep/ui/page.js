// Ctrl+Enter (or Cmd+Enter) generates, Esc cancels: both press the visible button.
document.addEventListener("keydown", (event) => {
  const id =
    event.key === "Enter" && (event.ctrlKey || event.metaKey)
      ? "generate"
      : event.key === "Escape"
        ? "cancel"
        : null;
  const button = id && document.getElementById(id);
  if (!button || button.offsetParent === null) return;
  event.preventDefault();
  // A text box sends its value when it loses the focus; the click must come after that.
  if (id === "generate" && document.activeElement instanceof HTMLElement) document.activeElement.blur();
  setTimeout(() => button.click(), 50);
});
