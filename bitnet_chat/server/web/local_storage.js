// Values that this browser stores: drafts, the theme, the model. Without permission to store, none are stored.

export function recall(name) {
  try { return localStorage.getItem(name) ?? "" } catch { return "" }
}

export function keep(name, value) {
  try {
    if (value) localStorage.setItem(name, value)
    else localStorage.removeItem(name)
  } catch { /* full, or not allowed */ }
}
