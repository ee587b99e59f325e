// Vercel's `ai`, with its general provider for compatible servers and with OpenAI's own (which speaks /v1/responses).
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";
import { API_KEY, BASE_URL, EMBEDDING_MODEL, MODEL, TOOL_MODEL, assert, check } from "./checks.mjs";

const compatible = createOpenAICompatible({
  name: "stoker", baseURL: `${BASE_URL}/v1`, apiKey: API_KEY, includeUsage: true, supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: API_KEY });
const person = z.object({ name: z.string(), age: z.number().int() });
const common = { maxRetries: 0, temperature: 0 };
const PROVIDERS = {
  compatible: (name) => compatible(name),
  "openai, chat": (name) => openai.chat(name),
  "openai, responses": (name) => openai(name),
};

for (const [kind, model] of Object.entries(PROVIDERS)) {
  await check(`${kind}: text`, async () => {
    const result = await generateText({ ...common, model: model(MODEL), prompt: "Say hello.", maxOutputTokens: 16 });
    assert(result.text.length > 0 && result.usage.outputTokens > 0);
  });
  await check(`${kind}: streamed`, async () => {
    let failure = null;
    const result = streamText({
      ...common, model: model(MODEL), prompt: "Say hello.", maxOutputTokens: 16, onError: ({ error }) => { failure = error; },
    });
    let text = "";
    for await (const piece of result.textStream) text += piece;
    if (failure) throw failure;
    assert(text.length > 0 && (await result.usage).outputTokens > 0);
  });
  await check(`${kind}: tool`, async () => {
    const result = await generateText({
      ...common, model: model(TOOL_MODEL), prompt: "What is the weather in Rome?", maxOutputTokens: 120,
      tools: { get_weather: tool({ description: "The weather.", inputSchema: z.object({ city: z.string() }) }) },
      toolChoice: { type: "tool", toolName: "get_weather" },
      providerOptions: { openai: { parallelToolCalls: false }, stoker: { parallel_tool_calls: false } },
    });
    assert(result.toolCalls[0].toolName === "get_weather", JSON.stringify(result.content));
  });
  await check(`${kind}: object`, async () => {
    const result = await generateObject({
      ...common, model: model(MODEL), schema: person, prompt: "Extract: Jason is 25 years old.", maxOutputTokens: 120,
    });
    assert(Number.isInteger(result.object.age));
  });
}

await check("embeddings", async () => {
  const model = compatible.embeddingModel?.(EMBEDDING_MODEL) ?? compatible.textEmbeddingModel(EMBEDDING_MODEL);
  const result = await embedMany({ model, values: ["a", "b"], maxRetries: 0 });
  assert(result.embeddings.length === 2 && result.embeddings[0].length > 0);
});
