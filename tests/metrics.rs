//! Metrics, health and status over HTTP.
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{TcpListener, TcpStream};

use common::receiver::{make_synchronous, wait_for_streaming};
use common::wait::until;
use common::{Archive, Http, Lsn, Process, Server, SmallDisk, walring};
use prometheus_parse::{Scrape, Value};
use walring::edge::status::Status;

const LISTEN: &str = "--listen=127.0.0.1:0";
const OPEN_METRICS: &str = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
    Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1\r\n\r\n";

/// A receiver that streams synchronously and that commits wait for.
fn observed(server: &Server, archive: &Archive) -> (Process, Http) {
    let receiver = walring(server, archive, &[LISTEN, "--synchronous"]);
    let http = Http::of(&receiver);
    make_synchronous(server);
    (receiver, http)
}

// ---- the page ----

#[test]
fn prometheus_parses_the_page() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    server.write_wal(100);
    let answer = http.get("/metrics");
    assert!(
        answer.head.contains("content-type: text/plain; version=0.0.4"),
        "{}",
        answer.head
    );
    let page = parse(&answer.body);
    for sample in &page.samples {
        let base = sample.metric.trim_end_matches("_sum").trim_end_matches("_count");
        let documented = page.docs.contains_key(&sample.metric) || page.docs.contains_key(base);
        assert!(documented, "{} has no HELP", sample.metric);
        let is_part = base != sample.metric;
        let typed = !matches!(sample.value, Value::Untyped(_));
        assert!(typed || is_part, "{} has no TYPE", sample.metric);
        if sample.metric.ends_with("_total") {
            assert!(matches!(sample.value, Value::Counter(_)), "{sample:?}");
        }
    }
    for line in answer.body.lines().filter(|line| line.starts_with('#')) {
        let known = line.starts_with("# HELP walring_") || line.starts_with("# TYPE walring_");
        assert!(known, "{line}");
    }
}

#[test]
fn each_metric_is_described_once_before_its_samples() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    for page in [http.get("/metrics").body, http.ask(OPEN_METRICS).body] {
        let mut described = BTreeSet::new();
        let mut current = String::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap().to_owned();
                assert!(described.insert(current.clone()), "{current} is described twice");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(&current), "{line} is not below {current}");
            }
        }
        assert!(described.len() > 25, "{described:?}");
    }
}

#[test]
fn who_asks_for_openmetrics_gets_it() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    let answer = http.ask(OPEN_METRICS);
    let kind = "content-type: application/openmetrics-text; version=1.0.0";
    assert!(answer.head.contains(kind), "{}", answer.head);
    assert!(answer.body.ends_with("\n# EOF\n"));
    assert_eq!(answer.body.matches("# EOF").count(), 1);
    for (name, kind) in types(&answer.body) {
        assert!(!name.ends_with("_total"), "{name}");
        if kind == "counter" {
            assert!(
                answer.body.contains(&format!("\n{name}_total ")),
                "{name} has no sample"
            );
        }
    }
}

#[test]
fn histograms_are_cumulative_and_end_with_everything() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    server.sql("create table t (i int)");
    for i in 0..20 {
        server.sql(&format!("insert into t values ({i})"));
    }
    http.wait_metric("walring_durable_seconds_count", |count| count > 0.0);
    let page = http.get("/metrics").body;
    let mut seen = BTreeSet::new();
    for sample in parse(&page).samples {
        let Value::Histogram(buckets) = sample.value else {
            continue;
        };
        let labels = sample.labels.to_string();
        let labels = if labels.is_empty() {
            labels
        } else {
            format!("{{{labels}}}")
        };
        let count = sample_of(&page, &format!("{}_count{labels}", sample.metric));
        let sum = sample_of(&page, &format!("{}_sum{labels}", sample.metric));
        assert!(
            buckets
                .windows(2)
                .all(|pair| pair[0].less_than < pair[1].less_than)
        );
        assert!(buckets.windows(2).all(|pair| pair[0].count <= pair[1].count));
        let last = buckets.last().unwrap();
        assert!(
            last.less_than.is_infinite() && last.count == count,
            "{}",
            sample.metric
        );
        assert_eq!(sum > 0.0, count > 0.0, "{}", sample.metric);
        seen.insert(sample.metric);
    }
    for name in [
        "durable",
        "ack",
        "commit_to_durable",
        "write",
        "flush",
        "rollover",
    ] {
        let name = format!("walring_{name}_seconds");
        assert!(seen.contains(&name), "{name} is missing in {seen:?}");
        assert!(page.contains(&format!("# TYPE {name} histogram")));
    }
    let bounds: Vec<f64> = page
        .lines()
        .filter_map(|line| line.strip_prefix("walring_durable_seconds_bucket{le=\""))
        .filter_map(|rest| rest.split('"').next()?.parse().ok())
        .collect();
    assert_eq!((bounds[0], bounds[1], bounds[2]), (10e-6, 25e-6, 50e-6));
    assert_eq!(bounds[bounds.len() - 2], 10.0);
}

#[test]
fn the_stream_is_labelled_with_server_and_slot() {
    let (server, archive) = (Server::start(), Archive::new());
    server.sql("select pg_create_physical_replication_slot('s1')");
    let receiver = walring(&server, &archive, &[LISTEN, "--slot=s1"]);
    let http = Http::of(&receiver);
    http.wait_metric("walring_receiver_status", |code| code == 2.0);
    for position in ["walring_flush_lsn", "walring_latest_end_lsn"] {
        http.wait_metric(position, |lsn| lsn > 0.0);
    }
    let page = parse(&http.get("/metrics").body);
    let host = server.socket_directory().display().to_string();
    for name in [
        "receiver_status",
        "flush_lsn",
        "received_tli",
        "latest_end_lsn",
        "lag_bytes",
    ] {
        let name = format!("walring_{name}");
        let sample = page.samples.iter().find(|sample| sample.metric == name);
        let sample = sample.unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(sample.labels.get("upstream_host"), Some(host.as_str()));
        assert_eq!(sample.labels.get("slot_name"), Some("s1"));
    }
}

// ---- positions and counts ----

#[test]
fn the_flush_position_is_what_the_server_was_told_and_never_ahead_of_the_server() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    server.sql("create table t (i int)");
    for i in 0..10 {
        server.sql(&format!("insert into t values ({i})"));
        let ours = http.metric("walring_flush_lsn") as u64;
        let theirs = server.flush_lsn();
        assert!(ours <= theirs.0, "{ours} is ahead of {theirs}");
        until("both know the same", || {
            let told: Lsn = server.receiver_column("flush_lsn")?.parse().ok()?;
            (http.metric("walring_flush_lsn") == told.0 as f64).then_some(())
        });
    }
}

#[test]
fn what_the_page_calls_durable_survives_a_kill() {
    let (server, archive) = (Server::start(), Archive::new());
    let (receiver, http) = observed(&server, &archive);
    server.pgbench_init();
    let load = server.start_pgbench(&["-n", "-c", "4", "-T", "60"]);
    let start = http.metric("walring_flush_lsn");
    http.wait_metric("walring_flush_lsn", |flushed| flushed > start + 100_000.0);
    let flushed = http.metric("walring_flush_lsn");
    receiver.kill();
    load.kill();
    assert!(flushed > start);
    archive.assert_holds(&server, 1, Lsn(flushed as u64));
}

#[test]
fn a_finished_segment_is_counted() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    assert_eq!(http.metric("walring_segments_completed_total"), 0.0);
    server.wait_flushed(server.switch_wal());
    http.wait_metric("walring_segments_completed_total", |count| count == 1.0);
}

#[test]
fn a_promotion_is_seen_in_the_timeline() {
    let (server, archive) = (Server::start(), Archive::new());
    server.write_wal(10);
    server.restart_as_standby();
    let receiver = walring(&server, &archive, &[LISTEN, "--synchronous"]);
    let http = Http::of(&receiver);
    http.wait_metric("walring_received_tli", |timeline| timeline == 1.0);
    server.promote();
    server.write_wal(10);
    http.wait_metric("walring_received_tli", |timeline| timeline == 2.0);
}

#[test]
fn the_process_is_described() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    let metrics = http.metrics();
    assert!(metrics["walring_free_bytes"] > 0.0);
    assert!(metrics["walring_uptime_seconds"] > 0.0);
    let version = format!(
        "walring_build_info{{version=\"{}\"}} 1",
        env!("CARGO_PKG_VERSION")
    );
    assert!(http.get("/metrics").body.contains(&version));
}

// ---- health ----

#[test]
fn a_lost_server_is_seen_and_its_return_too() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &[LISTEN, "--synchronous"]);
    let http = Http::of(&receiver);
    assert_eq!(http.wait_health(200), "ok\n");
    http.wait_metric("walring_receiver_status", |code| code == 2.0);
    assert_eq!(http.metric("walring_reconnects_total"), 0.0);
    server.stop_fast();
    let reason = http.wait_health(503);
    assert_eq!(reason.lines().count(), 1, "{reason:?}");
    http.wait_metric("walring_receiver_status", |code| code == 3.0 || code == 4.0);
    until("the reason is told", || {
        let reason = http.get("/healthz").body;
        reason.contains("connection to server on socket").then_some(())
    });
    http.wait_metric("walring_lag_seconds", |lag| lag > 1.0);
    assert_eq!(http.metric("walring_healthy"), 0.0);
    server.start_again();
    http.wait_health(200);
    http.wait_metric("walring_receiver_status", |code| code == 2.0);
    http.wait_metric("walring_reconnects_total", |count| count >= 1.0);
    http.wait_metric("walring_lag_seconds", |lag| lag < 1.0);
    http.wait_metric("walring_lag_bytes", |lag| lag == 0.0);
}

#[test]
fn a_server_that_cannot_be_reached_at_first_is_told() {
    let (server, archive) = (Server::start(), Archive::new());
    server.stop_fast();
    let receiver = walring(&server, &archive, &[LISTEN]);
    let http = Http::of(&receiver);
    http.wait_metric("walring_receiver_status", |code| code == 1.0 || code == 3.0);
    assert_eq!(http.get("/healthz").code, 503);
    assert!(!http.metrics().contains_key("walring_flush_lsn"));
}

#[test]
fn a_full_disk_is_counted_and_told() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let (server, archive) = (Server::start(), Archive::below(&disk.path()));
    disk.fill_up_to(4);
    let receiver = walring(&server, &archive, &[LISTEN, "--synchronous"]);
    let http = Http::of(&receiver);
    http.wait_health(200);
    server.write_wal(8000);
    http.wait_metric("walring_disk_io_errors_total", |count| count >= 1.0);
    until("the reason is told", || {
        let answer = http.get("/healthz");
        (answer.code == 503 && answer.body.contains("No space left on device")).then_some(())
    });
    disk.make_room();
    http.wait_health(200);
}

#[test]
fn a_disk_that_hangs_is_told_and_forgotten_when_it_works_again() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let (server, archive) = (Server::start(), Archive::below(&disk.path()));
    let receiver = walring(&server, &archive, &[LISTEN, "--synchronous", "-s", "1"]);
    let http = Http::of(&receiver);
    http.wait_health(200);
    server.write_wal(10);
    let frozen = disk.freeze();
    let end = server.write_wal(10);
    let reason = http.wait_health(503);
    let known = ["the event loop has been standing still", "waiting for the disk"];
    assert!(known.iter().any(|stall| reason.contains(stall)), "{reason}");
    assert!(http.metric("walring_flush_lsn") < end.0 as f64);
    drop(frozen);
    http.wait_health(200);
    http.wait_metric("walring_flush_lsn", |flushed| flushed >= end.0 as f64);
}

// ---- status ----

#[test]
fn the_status_is_what_the_metrics_say() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    server.wait_flushed(server.write_wal(10));
    let answer = http.get("/v1/status");
    assert!(
        answer.head.contains("content-type: application/json"),
        "{}",
        answer.head
    );
    let status: Status = serde_json::from_str(&answer.body).expect("a status");
    assert_eq!((status.status.as_str(), status.healthy), ("streaming", true));
    assert_eq!(status.reason, None);
    assert!(status.synchronous);
    assert_eq!(status.directory, archive.path().display().to_string());
    assert_eq!(
        status.upstream_host,
        server.socket_directory().display().to_string()
    );
    assert_eq!(status.upstream_port, server.port());
    assert_eq!(status.timeline, Some(1));
    assert_eq!(status.segment.as_ref(), archive.partials().last());
    let system = server.sql("select system_identifier from pg_control_system()");
    assert_eq!(status.system_identifier, Some(system));
    let version = server.sql("show server_version");
    assert_eq!(status.server_version, Some(version));
    let flushed: Lsn = status.positions.flushed.unwrap().parse().unwrap();
    assert!(flushed <= server.flush_lsn());
    assert!(status.latency.durable.count > 0);
}

// ---- HTTP ----

#[test]
fn other_requests_are_refused() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    assert_eq!(http.get("/nothing").code, 404);
    assert_eq!(http.get("/metrics/").code, 404);
    assert_eq!(http.get("/metrics?a=b").code, 200);
    assert!(http.get("/").body.contains("/healthz"));
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = http.ask(&format!(
            "{method} /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
        ));
        assert_eq!(answer.code, 405, "{method}");
        assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
    }
    let head = http.ask("HEAD /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!((head.code, head.body.as_str()), (200, ""));
}

#[test]
fn nothing_listens_unless_wanted() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous"]);
    wait_for_streaming(&server);
    assert!(!threads(&receiver).contains(&"walring-observe".to_owned()));
    let archive = Archive::new();
    let observed = walring(&server, &archive, &[LISTEN]);
    Http::of(&observed);
    until("the thread runs", || {
        threads(&observed)
            .contains(&"walring-observe".to_owned())
            .then_some(())
    });
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let (server, archive) = (Server::start(), Archive::new());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let exit = walring(&server, &archive, &[&format!("--listen={address}")]).finish();
    exit.assert_error(&format!(
        "walring: error: could not listen on {address}: Address already in use"
    ));
    assert!(archive.names().is_empty());
}

#[test]
fn an_address_that_others_reach_is_allowed_and_mentioned() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--listen=0.0.0.0:0"]);
    let line = receiver.wait_for_line("listening on http://0.0.0.0:");
    assert!(
        line.ends_with(", for everybody who can reach that address"),
        "{line}"
    );
    assert_eq!(Http::of(&receiver).get("/").code, 200);
}

// ---- clients that mean no good ----

#[test]
fn idle_slow_and_deaf_clients_hold_up_nobody() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    let idle: Vec<TcpStream> = (0..100).map(|_| http.connect()).collect();
    assert_eq!(http.get("/healthz").code, 200);
    let slow: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut socket = http.connect();
            socket.write_all(b"G").expect("send one byte");
            socket
        })
        .collect();
    let deaf: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut socket = http.connect();
            let request = "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n".repeat(100);
            // The connection may be closed for the next one's sake before all is sent.
            let _ = socket.write_all(request.as_bytes());
            socket
        })
        .collect();
    server.sql("create table t (i int)");
    for i in 0..10 {
        server.sql(&format!("insert into t values ({i})"));
        assert_eq!(http.get("/metrics").code, 200);
    }
    drop((idle, slow, deaf));
}

#[test]
fn a_connection_brings_one_answer() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    let answer = http.ask(&"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n".repeat(100));
    assert_eq!((answer.code, answer.body.as_str()), (200, "ok\n"));
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
}

#[test]
fn only_some_connections_are_open_at_once() {
    let (server, archive) = (Server::start(), Archive::new());
    let (receiver, http) = observed(&server, &archive);
    let _idle: Vec<TcpStream> = (0..100).map(|_| http.connect()).collect();
    // They were all accepted before this one.
    assert_eq!(http.get("/healthz").code, 200);
    let open = sockets(&receiver);
    assert!(open < 50, "{open} sockets are open");
}

#[test]
fn garbage_is_refused_and_harms_nobody() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    server.sql("create table t (i int)");
    let endless_head = format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(50_000));
    let endless_line = format!("GET /{}", "a".repeat(1 << 20));
    let binary: Vec<u8> = (0..1 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for garbage in [
        endless_head.as_bytes(),
        endless_line.as_bytes(),
        &binary,
        b"\r\n\r\n\r\n",
        b"\0",
    ] {
        let mut socket = http.connect();
        // The other side may have closed long before all is sent.
        let _ = socket.write_all(garbage);
        server.sql("insert into t values (1)");
        assert_eq!(http.get("/healthz").code, 200);
    }
}

#[test]
fn a_request_that_drips_is_cut_off() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    let mut slow = http.connect();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nX: ")
        .expect("begin a request");
    until("the connection ends although something comes", || {
        slow.write_all(b"y").err()
    });
    assert_eq!(http.get("/healthz").code, 200);
}

#[test]
fn thousands_of_bad_clients_cost_neither_memory_nor_the_stream() {
    let (server, archive) = (Server::start(), Archive::new());
    let (receiver, http) = observed(&server, &archive);
    server.sql("create table t (i int)");
    let many_headers = format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(5_000));
    let long_header = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(100_000));
    let pipelined = "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n".repeat(200);
    let requests: [&[u8]; 8] = [
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"GET /metrics HTTP/1.1\r\nHost:",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"POST / HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\nabc",
        many_headers.as_bytes(),
        long_header.as_bytes(),
        pipelined.as_bytes(),
    ];
    assert_eq!(http.get("/metrics").code, 200);
    let (memory, descriptors) = (memory_kib(&receiver), sockets(&receiver));
    for round in 0..30 {
        // None of them reads an answer, and all are there until the round is over.
        let _clients: Vec<TcpStream> = (0..100)
            .map(|client| {
                let mut socket = http.connect();
                // The other side may have closed long before all is sent.
                let _ = socket.write_all(requests[client % requests.len()]);
                socket
            })
            .collect();
        server.sql(&format!("insert into t values ({round})"));
        assert_eq!(http.get("/healthz").code, 200, "in round {round}");
        assert!(sockets(&receiver) < 50, "in round {round}");
    }
    server.wait_flushed(server.flush_lsn());
    let grown = memory_kib(&receiver).saturating_sub(memory);
    assert!(grown < 16 << 10, "{grown} KiB more");
    until("no socket is left over", || {
        let left = sockets(&receiver);
        (left <= descriptors + 1).then_some(())
    });
    receiver.stop();
}

#[test]
fn commits_go_on_while_somebody_scrapes_without_pause() {
    let (server, archive) = (Server::start(), Archive::new());
    let (_receiver, http) = observed(&server, &archive);
    server.pgbench_init();
    let mut load = server.start_pgbench(&["-n", "-c", "4", "-t", "100"]);
    let mut scrapes = 0;
    while load.is_running() {
        assert_eq!(http.get("/metrics").code, 200);
        assert_eq!(http.get("/v1/status").code, 200);
        scrapes += 1;
    }
    load.finish().assert_success();
    assert!(scrapes > 0);
}

#[test]
fn a_signal_ends_a_receiver_that_is_watched() {
    let (server, archive) = (Server::start(), Archive::new());
    let (receiver, http) = observed(&server, &archive);
    let _idle = http.connect();
    receiver.stop();
    assert!(TcpStream::connect(http.address()).is_err());
}

// ---- reading ----

fn parse(page: &str) -> Scrape {
    Scrape::parse(page.lines().map(|line| Ok(line.to_owned()))).expect("a page of metrics")
}

/// Name and type of every metric.
fn types(page: &str) -> BTreeMap<&str, &str> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines.filter_map(|line| line.split_once(' ')).collect()
}

#[track_caller]
fn sample_of(page: &str, name: &str) -> f64 {
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name}"))
}

/// The names of a program's threads.
fn threads(process: &Process) -> Vec<String> {
    let tasks = format!("/proc/{}/task", process.pid().as_raw_nonzero());
    let tasks = std::fs::read_dir(tasks).expect("list threads");
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// The most memory that a program has had, in KiB.
fn memory_kib(process: &Process) -> u64 {
    let status = format!("/proc/{}/status", process.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(status).expect("read the status of a process");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = most.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.expect("a number of KiB")
}

/// How many sockets a program has.
fn sockets(process: &Process) -> usize {
    let files = format!("/proc/{}/fd", process.pid().as_raw_nonzero());
    let files = std::fs::read_dir(files).expect("list descriptors");
    files
        .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}
