// The AI SDK with the npm providers of both APIs, as they are, against the server whose address is the first argument.
// Writes one JSON object with what it got, by provider.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";

const url = process.argv[2];
const prompt = "What is bitnet-chat?";
const common = { temperature: 0, maxRetries: 0 };

async function failure(model, text) {
  try {
    return ["", (await generateText({ model, prompt: text, ...common })).text];
  } catch (error) {
    return [error.name, `${error.message} ${error.responseBody}`];
  }
}

async function asked(provider) {
  const model = provider("bitnet-demo");
  const got = { call: [] };
  const whole = await generateText({ model, prompt, ...common });
  got.whole = whole.text;
  const stream = streamText({ model, prompt, ...common });
  got.streamed = "";
  for await (const piece of stream.textStream) got.streamed += piece;
  got.usage = [whole.usage.outputTokens, (await stream.usage).outputTokens];
  const inputSchema = jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] });
  const execute = async ({ city }) => {
    got.call.push(["get_weather", { city }]);
    return "snow";
  };
  const tools = { get_weather: tool({ description: "The weather of a city.", inputSchema, execute }) };
  const question = { model: provider("tool-demo"), prompt: "What is the weather in Oslo?", tools, ...common };
  got.told = (await generateText({ ...question, stopWhen: stepCountIs(3) })).text;
  const schema = jsonSchema({ type: "object", properties: { yes: { type: "boolean" } }, required: ["yes"] });
  got.structured = (await generateObject({ model, prompt: "Is it?", schema, ...common })).object;
  got.unknown = await failure(provider("missing"), "hello");
  got.long = await failure(model, "word ".repeat(2_500));
  return got;
}

const openai = createOpenAICompatible({
  name: "bitnet-chat",
  baseURL: url + "/v1",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const got = {};
for (const [name, provider] of Object.entries({ openai, ollama: createOllama({ baseURL: url + "/api" }) })) {
  try {
    got[name] = await asked(provider);
  } catch (error) {
    got[name] = { failed: String(error.stack) };
  }
}
console.log(JSON.stringify(got));
