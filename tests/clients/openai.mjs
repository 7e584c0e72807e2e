// The published npm client of OpenAI, as it is, against the server whose address is the first argument.
// Writes one JSON object with what it got.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is bitnet-chat?" }];
const model = (await client.models.list()).data[0].id;
const got = { model };

const whole = await client.chat.completions.create({ model, messages, temperature: 0 });
got.whole = whole.choices[0].message.content;
got.usage = whole.usage;

const stream = await client.chat.completions.create({
  model,
  messages,
  temperature: 0,
  stream: true,
  stream_options: { include_usage: true },
});
got.streamed = "";
got.roles = 0;
for await (const chunk of stream) {
  got.streamed += chunk.choices[0]?.delta?.content ?? "";
  got.roles += chunk.choices[0]?.delta?.role ? 1 : 0;
  got.finish = chunk.choices[0]?.finish_reason ?? got.finish;
  got.streamedUsage = chunk.usage ?? got.streamedUsage;
}

const runner = client.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 3 });
got.cut = (await runner.finalChatCompletion().catch((error) => error.constructor.name)).choices?.[0];

const abandoned = await client.chat.completions.create({ model, messages, stream: true });
for await (const chunk of abandoned) break; // which closes the connection

try {
  await client.chat.completions.create({ model: "gpt-4o", messages });
} catch (error) {
  got.error = [error.constructor.name, error.status, error.code, error.param];
}
console.log(JSON.stringify(got));
