'use strict';
// Reads requests in the JSON of OTLP, one a line, by the protobuf definitions of
// OpenTelemetry, as protobufjs has them from the package that its own exporters
// use. Each goes through the binary form and back: what the definitions do not
// know, or know with another type, comes back differently, and fails. Prints the
// trace and the span of each span.
const assert = require('node:assert');
const fs = require('node:fs');
const path = require('node:path');

const { opentelemetry } = require(path.join(process.argv[2], '@opentelemetry/otlp-transformer/build/src/generated/root'));
const Request = opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest;
const IDS = new Set(['traceId', 'spanId', 'parentSpanId']);

// A copy with the ids, which OTLP writes in hexadecimal digits, in the base64 of
// protobuf. Lists without members are nothing, as in the binary form.
function inProtobufJson(value, key) {
	if (Array.isArray(value)) return value.map((member) => inProtobufJson(member));
	if (IDS.has(key)) return Buffer.from(value, 'hex').toString('base64');
	if (value === null || typeof value !== 'object') return value;
	return Object.fromEntries(Object.entries(value)
		.filter(([, member]) => !Array.isArray(member) || member.length > 0)
		.map(([name, member]) => [name, inProtobufJson(member, name)]));
}

for (const line of fs.readFileSync(0, 'utf8').split('\n').filter(Boolean)) {
	const given = inProtobufJson(JSON.parse(line));
	const message = Request.decode(Request.encode(Request.fromObject(given)).finish());
	assert.deepStrictEqual(Request.toObject(message, { longs: String, bytes: String }), given);
	for (const { scopeSpans } of message.resourceSpans)
		for (const { spans } of scopeSpans)
			for (const span of spans)
				console.log(Buffer.from(span.traceId).toString('hex'), Buffer.from(span.spanId).toString('hex'));
}
