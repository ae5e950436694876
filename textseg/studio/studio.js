() => {
  const offer = (files) => {
    const file = [...files].find((one) => one.type.startsWith("image/"));
    const input = document.querySelector("#ts-bar input[type=file]");
    if (!file || !input) return false;
    const carrier = new DataTransfer();
    carrier.items.add(file);
    input.files = carrier.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    return true;
  };
  // The browser says nothing of a file that is chosen again.
  document.addEventListener("click", ({ target }) => {
    if (target.matches?.("input[type=file]")) target.value = "";
  }, true);
  // Gradio closes its stream of answers when none is awaited; what is asked in that very moment is
  // answered on the next stream, which asking for anything opens.
  let waking;
  const wake = () => {
    clearTimeout(waking);
    waking = setTimeout(() => document.querySelector("#ts-wake")?.click(), 1500);
  };
  for (const kind of ["pointerup", "keyup", "change"]) document.addEventListener(kind, wake, true);
  document.addEventListener("focusin", ({ target }) => {
    if (!target.matches?.("#ts-query input")) return;
    target.setAttribute("list", "ts-nouns");
    target.setAttribute("autocomplete", "off");
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData && offer(event.clipboardData.files)) event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    if (event.target.closest("input:not([type=radio], [type=range]), textarea")) return;
    event.preventDefault();
    document.querySelector(event.shiftKey ? "#ts-redo" : "#ts-undo")?.click();
  });
  // Gradio's slider says of neither picture what it is.
  const name = () => document.querySelectorAll("#ts-after img").forEach((one, i) => {
    one.alt = i ? "After the edit" : "Before the edit";
  });
  new MutationObserver(name).observe(document.querySelector("#ts-tabs"),
    { childList: true, subtree: true });
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("ts-drop");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("ts-drop");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("ts-drop");
    if (holdsFiles(event)) { event.preventDefault(); offer(event.dataTransfer.files); }
  });
}
