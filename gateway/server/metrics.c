/* SPDX-License-Identifier: MIT */
#include "gateway/server/metrics.h"

#include <stdio.h>
#include <string.h>

#include "gateway/server/server.h"

/* Seconds; OpenTelemetry's boundaries for the duration of a generative request. */
static const double bounds[LORICA_METRICS_BUCKETS] = {0.01, 0.02, 0.04, 0.08,  0.16,  0.32,  0.64,
                                                      1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92};

static void observe(struct lorica_histogram *histogram, double seconds) {
    size_t i = 0;
    while (i < LORICA_METRICS_BUCKETS && seconds > bounds[i])
        i++;
    histogram->buckets[i]++;
    histogram->sum += seconds;
    histogram->count++;
}

void lorica_metrics_request(struct lorica_metrics *metrics, const char *route, int status,
                            double seconds) {
    observe(&metrics->duration, seconds);
    for (size_t i = 0; i < metrics->route_count; i++)
        if (metrics->routes[i].route == route && metrics->routes[i].status == status) {
            metrics->routes[i].count++;
            return;
        }
    if (metrics->route_count == LORICA_METRICS_ROUTES)
        return;
    metrics->routes[metrics->route_count++] = (struct lorica_metrics_route){route, status, 1};
}

void lorica_metrics_first_token(struct lorica_metrics *metrics, double seconds) {
    observe(&metrics->first_token, seconds);
}

/* The line of what answered, made where it is missing. */
static struct lorica_metrics_adapter *line_of(struct lorica_metrics *metrics, const char *adapter) {
    size_t i = 0;
    while (i < metrics->adapter_count && strcmp(metrics->adapters[i].name, adapter) != 0)
        i++;
    struct lorica_metrics_adapter *slot = &metrics->adapters[i];
    if (i == metrics->adapter_count) {
        if (i < LORICA_METRICS_ADAPTERS)
            metrics->adapter_count++;
        (void)snprintf(slot->name, sizeof(slot->name), "%s",
                       i < LORICA_METRICS_ADAPTERS ? adapter : "other");
    }
    return slot;
}

void lorica_metrics_tokens(struct lorica_metrics *metrics, const char *adapter, uint64_t prompt,
                           uint64_t completion) {
    struct lorica_metrics_adapter *slot = line_of(metrics, adapter);
    slot->prompt_tokens += prompt;
    slot->completion_tokens += completion;
    slot->requests++;
}

void lorica_metrics_failed(struct lorica_metrics *metrics, const char *adapter) {
    line_of(metrics, adapter)->errors++;
}

static void write_histogram(struct lorica_buf *out, const char *name, const char *help,
                            const struct lorica_histogram *histogram) {
    uint64_t below = 0;
    lorica_buf_printf(out, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    for (size_t i = 0; i < LORICA_METRICS_BUCKETS; i++) {
        below += histogram->buckets[i];
        lorica_buf_printf(out, "%s_bucket{le=\"%g\"} %llu\n", name, bounds[i],
                          (unsigned long long)below);
    }
    lorica_buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.6f\n%s_count %llu\n", name,
                      (unsigned long long)histogram->count, name, histogram->sum, name,
                      (unsigned long long)histogram->count);
}

static void write_one(struct lorica_buf *out, const char *name, const char *type, const char *help,
                      double value) {
    lorica_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.15g\n", name, help, name, type, name,
                      value);
}

static void write_adapters(const struct lorica_metrics *m, struct lorica_buf *out) {
    static const char *const names[4] = {"lorica_requests_total", "lorica_errors_total",
                                         "lorica_prompt_tokens_total",
                                         "lorica_output_tokens_total"};
    static const char *const helps[4] = {"Generations by what answered.",
                                         "Of these, failed by no fault of client or load.",
                                         "Prompt tokens.", "Generated tokens."};
    const size_t count = m->adapters[LORICA_METRICS_ADAPTERS].requests ? LORICA_METRICS_ADAPTERS + 1
                                                                       : m->adapter_count;
    for (int field = 0; field < 4; field++) {
        lorica_buf_printf(out, "# HELP %s %s\n# TYPE %s counter\n", names[field], helps[field],
                          names[field]);
        for (size_t i = 0; i < count; i++) {
            const struct lorica_metrics_adapter *a = &m->adapters[i];
            const uint64_t value = field == 0   ? a->requests
                                   : field == 1 ? a->errors
                                   : field == 2 ? a->prompt_tokens
                                                : a->completion_tokens;
            lorica_buf_printf(out, "%s{adapter=\"%s\"} %llu\n", names[field], a->name,
                              (unsigned long long)value);
        }
    }
}

static void write_times(struct lorica_buf *out, const char *name, const char *help,
                        const struct lorica_engine_times *times) {
    uint64_t below = 0;
    lorica_buf_printf(out, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    for (unsigned i = 0; i < LORICA_ENGINE_TIMES; i++) {
        below += times->buckets[i];
        lorica_buf_printf(out, "%s_bucket{le=\"%g\"} %llu\n", name, lorica_engine_times_bound(i),
                          (unsigned long long)below);
    }
    lorica_buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.6f\n%s_count %llu\n", name,
                      (unsigned long long)times->count, name, times->sum, name,
                      (unsigned long long)times->count);
}

static void write_engine(struct lorica_server *server, struct lorica_buf *out) {
    struct lorica_engine_stats stats;
    size_t count = 0, bytes = 0;
    lorica_engine_stats(server->parts.engine, &stats);
    lorica_adapter_cache_stats(server->parts.adapters, &count, &bytes);
    write_one(out, "lorica_engine_running", "gauge", "Sequences in the batch.", stats.running);
    write_one(out, "lorica_engine_waiting", "gauge", "Sequences in the queue.", stats.waiting);
    write_one(out, "lorica_engine_kv_pages_used", "gauge", "Pages of the key/value cache in use.",
              stats.kv_pages_used);
    write_one(out, "lorica_engine_kv_pages", "gauge", "Pages of the key/value cache.",
              stats.kv_pages_total);
    write_one(out, "lorica_engine_kv_pages_kept", "gauge",
              "Pages kept for prompts that begin alike.", stats.kv_pages_idle);
    write_one(out, "lorica_engine_kv_pages_evicted_total", "counter",
              "Kept pages that were dropped for others.", (double)stats.evicted_pages);
    write_one(out, "lorica_engine_prompt_tokens_total", "counter", "Prompt tokens computed.",
              (double)stats.prompt_tokens);
    write_one(out, "lorica_engine_cached_tokens_total", "counter",
              "Prompt tokens that need not be computed: they were kept.",
              (double)stats.cached_tokens);
    write_one(out, "lorica_engine_preempted_total", "counter",
              "Sequences that had to make room and wait again.", (double)stats.preempted);
    write_one(out, "lorica_engine_completion_tokens_total", "counter", "Tokens generated.",
              (double)stats.completion_tokens);
    write_one(out, "lorica_engine_steps_total", "counter", "Steps of the batch.",
              (double)stats.steps);
    write_one(out, "lorica_engine_finished_total", "counter", "Sequences brought to their end.",
              (double)stats.finished);
    write_one(out, "lorica_engine_cancelled_total", "counter", "Sequences cancelled.",
              (double)stats.cancelled);
    write_one(out, "lorica_engine_drafted_tokens_total", "counter", "Tokens guessed ahead.",
              (double)stats.drafted_tokens);
    write_one(out, "lorica_engine_accepted_tokens_total", "counter", "Guesses that were right.",
              (double)stats.accepted_tokens);
    write_times(out, "lorica_engine_queue_seconds", "From a request's arrival to its first step.",
                &stats.queue);
    write_times(out, "lorica_engine_step_seconds", "Steps of the batch.", &stats.step);
    write_times(out, "lorica_engine_token_gap_seconds", "From one token of an answer to the next.",
                &stats.between);
    write_one(out, "lorica_adapters_resident", "gauge", "Adapters in the cache.", (double)count);
    write_one(out, "lorica_adapters_resident_bytes", "gauge", "Memory of these.", (double)bytes);
}

static void write_mlflow(const struct lorica_server *server, struct lorica_buf *out) {
    struct lorica_mlflow_mirror_stats stats;
    if (!server->mlflow)
        return;
    lorica_mlflow_mirror_stats(server->mlflow, &stats);
    write_one(out, "lorica_mlflow_failing", "gauge",
              "1 while MLflow cannot be brought up to date; the log says why.", stats.failing);
    write_one(out, "lorica_mlflow_seq", "gauge", "Audit record up to which MLflow has everything.",
              (double)stats.seq);
    write_one(out, "lorica_mlflow_published_total", "counter", "Model versions made.",
              (double)stats.published);
    write_one(out, "lorica_mlflow_failures_total", "counter",
              "Attempts that failed and are made again.", (double)stats.failures);
    write_one(out, "lorica_mlflow_refused_total", "counter",
              "Changes that MLflow refused for good.", (double)stats.refused);
}

static void write_jobs(struct lorica_server *server, struct lorica_buf *out) {
    unsigned counts[LORICA_JOB_STATE_COUNT] = {0};
    lorica_jobs_count(server->jobs, counts);
    lorica_buf_puts(out, "# HELP lorica_training_jobs Fine-tuning jobs that are kept, by state.\n"
                         "# TYPE lorica_training_jobs gauge\n");
    for (int i = 0; i < LORICA_JOB_STATE_COUNT; i++)
        lorica_buf_printf(out, "lorica_training_jobs{state=\"%s\"} %u\n",
                          lorica_job_state_name((enum lorica_job_state)i), counts[i]);
}

void lorica_metrics_write(struct lorica_server *server, struct lorica_buf *out) {
    const struct lorica_metrics *m = &server->metrics;
    lorica_buf_printf(out,
                      "# HELP lorica_build_info Version and base model.\n"
                      "# TYPE lorica_build_info gauge\n"
                      "lorica_build_info{version=\"%s\",base_digest=\"%s\"} 1\n",
                      LORICA_VERSION, server->base_digest);
    lorica_buf_puts(out, "# HELP lorica_http_requests_total Requests by route and status; 499: the "
                         "client went away.\n# TYPE lorica_http_requests_total counter\n");
    for (size_t i = 0; i < m->route_count; i++)
        lorica_buf_printf(out, "lorica_http_requests_total{route=\"%s\",code=\"%d\"} %llu\n",
                          m->routes[i].route, m->routes[i].status,
                          (unsigned long long)m->routes[i].count);
    write_histogram(out, "lorica_http_request_duration_seconds",
                    "From the head of a request to the end of its answer.", &m->duration);
    write_histogram(out, "lorica_ttft_seconds", "From the head of a request to its first token.",
                    &m->first_token);
    write_adapters(m, out);
    write_engine(server, out);
    write_mlflow(server, out);
    write_jobs(server, out);
    write_one(out, "lorica_connections", "gauge", "Open connections.", (double)server->conn_count);
    write_one(out, "lorica_connections_total", "counter", "Connections taken.",
              (double)m->connections_total);
    write_one(out, "lorica_tls_handshake_failures_total", "counter", "TLS handshakes that failed.",
              (double)m->handshake_failures);
    write_one(out, "lorica_requests_in_flight", "gauge", "Requests being answered.",
              (double)server->request_count);
    write_one(out, "lorica_requests_cancelled_total", "counter",
              "Requests whose client went away before the answer.", (double)m->cancelled);
    write_one(out, "lorica_slow_readers_total", "counter", "Clients cut off for not reading.",
              (double)m->slow_readers);
    write_one(out, "lorica_changes_refused_total", "counter",
              "Changes that keys asked for and that were refused.", (double)m->refused);
    write_one(out, "lorica_changes_unauthenticated_total", "counter",
              "Changes that were asked for without a valid key.", (double)m->unauthenticated);
    write_one(out, "lorica_network_received_bytes_total", "counter", "Bytes received.",
              (double)m->bytes_in);
    write_one(out, "lorica_network_sent_bytes_total", "counter", "Bytes sent.",
              (double)m->bytes_out);
    write_one(out, "lorica_uptime_seconds", "gauge", "Time since the start.",
              (double)(uv_now(&server->loop) - server->started_ms) / 1000.0);
}
