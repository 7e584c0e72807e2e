// Copies text, also on a page that is not a secure context: the page of a server in the local network.

export async function copy(text, button) {
  if (await written(text)) shown(button)
}

async function written(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch { /* not allowed here: the old way */ }
  const area = document.createElement("textarea")
  area.value = text
  area.className = "hidden"
  document.body.append(area)
  area.select()
  try { return document.execCommand("copy") } catch { return false } finally { area.remove() }
}

function shown(button) {
  const use = button.querySelector("use")
  use.setAttribute("href", "#i-done")
  button.dataset.copied = "yes"
  setTimeout(() => {
    use.setAttribute("href", "#i-copy")
    delete button.dataset.copied
  }, 1500)
}
