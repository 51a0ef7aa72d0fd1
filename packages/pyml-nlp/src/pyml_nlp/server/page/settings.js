// The settings: a form that is kept in this browser, as fields of a request.

import { byId } from "./dom.js";
import { readItem, writeItem } from "./storage.js";

const KEY = "pyml.settings";
const NUMBERS = [
  "temperature",
  "top_k",
  "top_p",
  "min_p",
  "repetition_penalty",
  "presence_penalty",
  "frequency_penalty",
  "max_tokens",
];

const form = byId("settings-form");

/** Fill the form with what was kept, and keep what is changed. */
export function startSettings() {
  const kept = readItem(KEY) ?? {};
  for (const control of form.elements) {
    if (!control.name || !(control.name in kept)) continue;
    if (control.type === "checkbox") control.checked = kept[control.name] === true;
    else control.value = kept[control.name];
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", keep);
  form.addEventListener("reset", () => setTimeout(keep)); // after the fields are empty
}

function keep() {
  const values = {};
  for (const control of form.elements) {
    if (control.name) values[control.name] = control.type === "checkbox" ? control.checked : control.value;
  }
  try {
    writeItem(KEY, values);
  } catch {
    // the settings of this visit still count
  }
}

export const systemPrompt = () => form.elements.system.value.trim();
export const wantsProbabilities = () => form.elements.probabilities.checked;

/** Use this system prompt. */
export function setSystemPrompt(text) {
  form.elements.system.value = text;
  keep();
}

/**
 * The fields of a request. There is always a seed, so that each answer can be had again.
 * Throws an Error that names the invalid setting, whose control has the focus then.
 */
export function requestFields() {
  const { elements } = form;
  const fields = {};
  for (const control of elements) {
    if (control.name && !control.validity.valid) throw wrong(control, control.validationMessage);
  }
  for (const name of NUMBERS) if (elements[name].value !== "") fields[name] = elements[name].valueAsNumber;
  fields.seed = elements.seed.value === "" ? randomSeed() : elements.seed.valueAsNumber;
  const stops = elements.stop.value.split("\n").filter((line) => line !== "");
  if (stops.length) fields.stop = stops;
  if (elements.reasoning_effort.value) fields.reasoning_effort = elements.reasoning_effort.value;
  if (elements.schema.value.trim()) {
    fields.response_format = { type: "json_schema", json_schema: { name: "answer", schema: schema(elements.schema) } };
  }
  return fields;
}

const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

function schema(control) {
  try {
    return JSON.parse(control.value);
  } catch (error) {
    throw wrong(control, error.message);
  }
}

function wrong(control, message) {
  if (byId("settings").hidden) byId("show-settings").click();
  control.focus();
  const name = control.labels[0].firstChild.data.trim();
  return new Error(`${name}: ${message}`);
}
