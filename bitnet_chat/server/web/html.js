// The only place where HTML becomes part of the page. The server has sanitized it (markdown_html.py).

const name = "bitnet-chat"
const policy = globalThis.trustedTypes
  ? trustedTypes.createPolicy(name, {
      createHTML: html => html,
      createScriptURL: url => {
        if (url !== "/sw.js") throw new TypeError(`${url} is not a script of this page`)
        return url
      },
    })
  : { createHTML: html => html, createScriptURL: url => url }

export function fragmentOf(html) {
  const template = document.createElement("template")
  template.innerHTML = policy.createHTML(html)
  return template.content
}

export const workerUrl = () => policy.createScriptURL("/sw.js")

// A copy of the content of a <template> of index.html.
export function made(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true)
}

// A name that is not of this page, such as that of a model: characters without a glyph become visible, and its direction
// does not change the text around it.
export function named(name) {
  return element("bdi", readable(name))
}

export function readable(name) {
  return name.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, each => `<U+${each.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`)
}

export function element(name, text = "", className = "") {
  const made = document.createElement(name)
  if (text) made.textContent = text
  if (className) made.className = className
  return made
}
