// openai-node
import OpenAI from "openai";
import { API_KEY, BASE_URL, EMBEDDING_MODEL, MODEL, TOOL_MODEL, assert, check } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: API_KEY, maxRetries: 0, timeout: 120_000 });
const messages = [{ role: "user", content: "Say hello." }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

await check("models", async () => {
  const ids = (await client.models.list()).data.map((model) => model.id);
  assert(ids.includes(MODEL), `${ids}`);
  assert((await client.models.retrieve(MODEL)).id === MODEL);
});

await check("chat", async () => {
  const answer = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 8 });
  assert(answer.choices[0].message.content);
  assert(answer.choices[0].logprobs === null && answer.choices[0].message.refusal === null);
  assert(answer.usage.completion_tokens > 0);
});

await check("chat, streamed", async () => {
  const stream = await client.chat.completions.create({
    model: MODEL, messages, max_tokens: 8, stream: true, stream_options: { include_usage: true },
  });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert(chunks[0].choices[0].delta.role === "assistant");
  assert(chunks.at(-1).choices.length === 0 && chunks.at(-1).usage.completion_tokens > 0);
  assert(chunks.slice(0, -1).every((chunk) => chunk.usage === null));
});

await check("chat, tool, streamed with the package's helper", async () => {
  const stream = client.chat.completions.stream({
    model: TOOL_MODEL, max_tokens: 120, temperature: 0, parallel_tool_calls: false, tool_choice: "required",
    messages: [{ role: "user", content: "What is the weather in Rome?" }],
    tools: [{ type: "function", function: { name: "get_weather", parameters } }],
  });
  const final = await stream.finalChatCompletion();
  assert(final.choices[0].message.tool_calls[0].function.name === "get_weather");
});

await check("completions", async () => {
  const answer = await client.completions.create({ model: MODEL, prompt: "One, two,", max_tokens: 4 });
  assert(answer.choices[0].text);
});

await check("embeddings", async () => {
  const answer = await client.embeddings.create({ model: EMBEDDING_MODEL, input: ["a", "b"] });
  assert(answer.data.length === 2 && answer.data[0].embedding.length > 0);
});

await check("responses, streamed with the package's helper", async () => {
  const stream = client.responses.stream({ model: MODEL, input: "Say hello.", max_output_tokens: 8 });
  let text = "";
  for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
  const final = await stream.finalResponse();
  assert(final.output_text === text && text.length > 0);
  assert(final.usage.output_tokens_details.reasoning_tokens === 0);
});

await check("errors are the package's own classes", async () => {
  for (const [body, wanted] of [
    [{ model: "nobody", messages }, OpenAI.NotFoundError],
    [{ model: MODEL, messages, temperature: 9 }, OpenAI.BadRequestError],
  ]) {
    const error = await client.chat.completions.create(body).then(() => null, (reason) => reason);
    assert(error instanceof wanted && error.code, `${error}`);
  }
});

await check("a stream that is given up", async () => {
  const stream = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 200, stream: true });
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  stream.controller.abort();
});
