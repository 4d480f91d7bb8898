"""Shell: the gRPC and HTTP edge, with the router flow in the same process.

config.py            addresses, limits, TLS and keys
watched_files.py     files that change while the server runs
auth.py              API keys to tenants and roles
limits.py            what each tenant may take
tokenizer.py         chat template, tokenize, detokenize
slo_headers.py       latency targets and priority from headers
sampling.py          a client's sampling fields, checked; the requests of several outputs
convert.py           messages of the wire to requests and back
stream.py            one request's outputs in order, each token once
client_stream.py     one running request between performer and handler
choices.py           the outputs of one call: their tokens, and the messages that these become
performer.py         hosts the request flow and performs its actions
subscriptions.py     token streams from workers, and calls to them, through Ray
call.py              what is known of one call: id, deadline, who calls
layers.py            what surrounds every handler, in order
status.py            errors to google.rpc statuses
interceptor.py       names calls, enters layers, maps errors
servicer.py          InferenceService
cluster_servicer.py  ClusterService
tls.py               the certificate of both doors
metrics_http.py      /metrics
link_probes.py       measures the links between workers
holder.py            who listens on a port
joining.py           whether a port may be shared
grpc_server.py       the gRPC server
health_http.py       /health /livez /readyz /version
server.py            both servers on ports that replicas share
app.py               one front door replica, put together
"""
