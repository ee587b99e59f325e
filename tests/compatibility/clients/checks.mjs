// What a client's program found out: one line of JSON a check, on stdout.
export const BASE_URL = process.env.STOKER_BASE_URL; // without /v1
export const API_KEY = process.env.STOKER_API_KEY;
export const MODEL = process.env.STOKER_MODEL;
export const TOOL_MODEL = process.env.STOKER_TOOL_MODEL;
export const EMBEDDING_MODEL = process.env.STOKER_EMBEDDING_MODEL;

export async function check(name, body) {
  try {
    await body();
    console.log(JSON.stringify({ check: name, result: "passed", note: "" }));
  } catch (error) {
    console.error(error);
    const note = `${error?.name}: ${error?.message}`.slice(0, 500);
    console.log(JSON.stringify({ check: name, result: "failed", note }));
  }
}

export function assert(condition, words) {
  if (!condition) throw new Error(words ?? "not as it should be");
}
