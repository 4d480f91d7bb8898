"""Shell: the gRPC and HTTP edge, with the router flow in the same process.

config.py            addresses, limits, TLS and keys
watched_files.py     files that change while the server runs
auth.py              API keys to tenants and roles
limits.py            what each tenant may take
tokenizer.py         tokenize, detokenize
chat_template.py     a conversation as the text that the model was trained on
slo_headers.py       latency targets and priority from headers
structured.py        what outputs are to be, checked and compiled
sampling.py          a client's sampling fields, checked; the requests of several outputs
convert.py           messages of the wire to requests and back
beside.py            where that is done: on the loop, or beside it
stream.py            one request's outputs in order, each token once
client_stream.py     one running request between performer and handler
output_text.py       an output's tokens to text: whole characters, stop strings
choices.py           the outputs of one call, and their tokens as they come
embedding.py         embeds questions beside the loop, those that wait together
response_cache.py    names requests for the cache, finds and keeps their answers
categories.py        what requests are about
cluster_load.py      how much of what workers can serve is asked of them
shadow.py            computes some semantic hits, too, and compares
lookups.py           performs what the flow asks of the cache
worker_clocks.py     workers' times on this process's clock
performer.py         hosts the request flow and performs its actions
worker_channel.py    one connection to a worker
subscriptions.py     token streams from workers, and calls to them
call.py              what is known of one call: id, deadline, who calls
layers.py            what surrounds every handler, in order
status.py            errors to google.rpc statuses
interceptor.py       names calls, enters layers, maps errors
choice_writer.py     an output's tokens to messages of Generate
servicer.py          InferenceService
view_calls.py        what operators are told of placement
cache_calls.py       what they ask of the response cache
cluster_servicer.py  ClusterService
traces.py            a trace of each call; TraceService
tls.py               the certificate of both doors
metrics_http.py      /metrics
link_probes.py       measures the links between workers
holder.py            who listens on a port
joining.py           whether a port may be shared
grpc_server.py       the gRPC server
http_errors.py       errors to OpenAI's body
http_connection.py   uvicorn's connections with bounds, and the socket
http_door.py         names HTTP requests, enters layers, bounds bodies
openai_schema.py     bodies of the OpenAI API
openai_convert.py    those bodies to messages of Generate
openai_structured.py what those bodies say of the output's form
openai_output.py     an output's tokens to events, or to one answer
openai_stream.py     serves one call, streamed or whole
openai_http.py       the OpenAI API's routes
http_app.py          the HTTP application: health, version, OpenAI
server.py            both servers on ports that replicas share
app.py               one front door replica, put together
"""
