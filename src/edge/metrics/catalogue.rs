//! Which metrics there are: their names, their help and where their values come from. A new one is a line here.

use prometheus_client::registry::Unit;

use super::numbers::{Buckets, Counter, Family, Gauge};
use crate::core::lsn::Lsn;
use crate::core::measure::{Measures, Times};
use crate::edge::observation::Observation;

/// Upper bounds of the buckets of times, in microseconds: 10 µs to 10 s.
const TIME_BOUNDS_US: [u64; 19] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Upper bounds of the buckets of transactions.
const TRANSACTION_BOUNDS: [u64; 10] = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500];

/// Upper bounds of the buckets of bytes: 256 B to 16 MiB.
const BYTE_BOUNDS: [u64; 9] = [
    1 << 8,
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 24,
];

/// How far the stream has come.
pub(super) fn positions(observation: &Observation) -> Vec<Gauge> {
    let telemetry = observation.telemetry();
    vec![
        Gauge::position(
            "receive_start_lsn",
            "Where streaming began on this connection.",
            telemetry.start.value(),
        ),
        Gauge::position(
            "received_lsn",
            "The end of the WAL that arrived.",
            telemetry.received.value(),
        ),
        Gauge::position(
            "verified_lsn",
            "The end of the WAL that was verified.",
            telemetry.verified.value(),
        ),
        Gauge::position(
            "written_lsn",
            "The end of the WAL that was written.",
            telemetry.written.value(),
        ),
        Gauge::position(
            "flush_lsn",
            "The end of the WAL that is durable.",
            telemetry.flushed.value(),
        ),
        Gauge::position(
            "reported_flush_lsn",
            "The flush position that the server was told last.",
            telemetry.reported.value(),
        ),
        Gauge::position(
            "latest_end_lsn",
            "How far the server could send when it spoke last.",
            telemetry.server_end.value(),
        ),
    ]
}

/// How the stream is.
pub(super) fn state(observation: &Observation) -> Vec<Gauge> {
    let telemetry = observation.telemetry();
    let seconds = |moment: Option<i64>| moment.map(|us| us as f64 / 1e6);
    vec![
        Gauge::whole(
            "receiver_status",
            "0 stopped, 1 starting, 2 streaming, 3 waiting, 4 restarting.",
            telemetry.activity() as u64,
        ),
        Gauge::whole(
            "healthy",
            "1 while WAL streams and neither the server nor the disk has stalled, as /healthz says.",
            u64::from(observation.ailment().is_none()),
        ),
        Gauge::whole(
            "received_tli",
            "The timeline that is received.",
            telemetry.timeline().map(|timeline| u64::from(timeline.0)),
        ),
        Gauge::real(
            "last_msg_send_time",
            "When the server sent its last message, in seconds since 1970, by its clock.",
            seconds(telemetry.last_send.value()),
        ),
        Gauge::real(
            "last_msg_receipt_time",
            "When the last message arrived, in seconds since 1970.",
            seconds(telemetry.last_receipt.value()),
        ),
        Gauge::real(
            "last_commit_time",
            "When the last commit that is durable here was made, in seconds since 1970, by the server's clock.",
            seconds(telemetry.last_commit.value()),
        ),
        Gauge::whole(
            "lag_bytes",
            "WAL that the server is known to have and that is not durable here.",
            observation.lag_bytes(),
        ),
        Gauge::real(
            "lag_seconds",
            "How long there has been such WAL; without a connection at least since it was lost.",
            observation.lag().as_secs_f64(),
        ),
    ]
}

/// What the server says of the slot, in postgres_exporter's words (`pg_replication_slot`), if it is looked after.
pub(super) fn watched_slot(observation: &Observation) -> Vec<Gauge> {
    if !observation.watches_slot() {
        return Vec::new();
    }
    let state = observation.slot_state();
    let state = state.as_ref();
    vec![
        Gauge::whole(
            "slot_watch_up",
            "1 while the server tells about the replication slot.",
            u64::from(state.is_some()),
        ),
        Gauge::whole(
            "slot_wal_status",
            "0 lost, 1 unreserved, 2 extended, 3 reserved.",
            state
                .and_then(|state| state.wal_status)
                .map(|status| status as u64),
        ),
        Gauge::real(
            "slot_safe_wal_size_bytes",
            "How much more WAL can be written before the slot is lost.",
            state
                .and_then(|state| state.safe_wal_bytes)
                .map(|bytes| bytes as f64),
        ),
        Gauge::position(
            "slot_restart_lsn",
            "The oldest position that the server keeps for the slot.",
            state.and_then(|state| state.restart_lsn).unwrap_or(Lsn::INVALID),
        ),
        Gauge::whole(
            "slot_is_active",
            "1 while somebody streams from the slot.",
            state.map(|state| u64::from(state.active)),
        ),
    ]
}

/// What is about the process, whatever it streams.
pub(super) fn process(observation: &Observation) -> Vec<Gauge> {
    let savings = observation.savings().map(|savings| {
        Gauge::real(
            "saved_seconds",
            "An estimate of the time that commits did not wait, against the standard path on this disk.",
            savings.total_seconds,
        )
    });
    let gauges = [
        Gauge::whole(
            "free_bytes",
            "Space for an unprivileged user on the directory's file system.",
            observation.free_bytes(),
        ),
        Gauge::whole(
            "disk_full",
            "1 while there is no room for the next segment; once that is needed, nothing is received.",
            u64::from(observation.telemetry().missing_room() > 0),
        ),
        Gauge::real(
            "uptime_seconds",
            "How long the process has been running.",
            observation.uptime().as_secs_f64(),
        ),
    ];
    gauges.into_iter().chain(savings).collect()
}

/// What has happened so often.
pub(super) fn counters(observation: &Observation) -> Vec<Counter> {
    let telemetry = observation.telemetry();
    vec![
        Counter::new(
            "wal_bytes_received",
            "WAL received, in bytes.",
            telemetry.received_bytes.value(),
        ),
        Counter::new(
            "messages_received",
            "WAL messages received.",
            telemetry.messages.value(),
        ),
        Counter::new(
            "transactions",
            "COMMIT and COMMIT PREPARED records received.",
            telemetry.transactions.value(),
        ),
        Counter::new("records_verified", "Records verified.", telemetry.records.value()),
        Counter::new(
            "segments_completed",
            "Segments completed.",
            telemetry.segments.value(),
        ),
        Counter::new(
            "reconnects",
            "Connections after the first.",
            telemetry.reconnects.value(),
        ),
        Counter::new(
            "disk_io_errors",
            "Operations of the disk that failed.",
            telemetry.disk_errors.value(),
        ),
        Counter::new(
            "verification_failures",
            "Pages or records that failed verification.",
            telemetry.verification_failures.value(),
        ),
    ]
}

/// Which of the measured times a metric shows.
type WhichTimes = fn(&Measures) -> &Times;

/// Histograms of times.
const TIMES: [(&str, &str, WhichTimes); 5] = [
    (
        "durable",
        "From the arrival of a transaction's last byte to its being durable.",
        |measures| &measures.durable,
    ),
    (
        "ack",
        "From the arrival of a transaction's last byte to the status that acknowledges it.",
        |measures| &measures.acknowledged,
    ),
    (
        "commit_to_durable",
        "From the server's time of a commit to its being durable here: by two clocks, right only as far as they agree.",
        |measures| &measures.commit,
    ),
    (
        "write",
        "Writes that are not durable when they end.",
        |measures| &measures.write,
    ),
    (
        "rollover",
        "Changes of segments: from the order to rename to the directory being synced.",
        |measures| &measures.rollover,
    ),
];

/// How long things took, and how much was done at once.
pub(super) fn histograms(observation: &Observation) -> Vec<Family> {
    let times = |which: WhichTimes| {
        observation.times(which, |histogram| Buckets::of(histogram, &TIME_BOUNDS_US, 1e6))
    };
    let of_times = TIMES
        .iter()
        .map(|&(name, help, which)| Family::one(name, Some(Unit::Seconds), help, times(which)));
    let mut families: Vec<Family> = of_times.collect();
    families.push(Family::by_method(
        "flush",
        Some(Unit::Seconds),
        "What makes WAL durable: writes that are durable when they end, and syncs.",
        [
            ("durable_write", times(|measures| &measures.durable_write)),
            ("sync", times(|measures| &measures.sync)),
        ],
    ));
    let measures = observation.telemetry().measures();
    let transactions = Buckets::of(
        measures.transactions_per_flush.histogram(),
        &TRANSACTION_BOUNDS,
        1.0,
    );
    let bytes = Buckets::of(measures.bytes_per_flush.histogram(), &BYTE_BOUNDS, 1.0);
    drop(measures);
    families.push(Family::one(
        "flush_transactions",
        None,
        "Transactions that one durable write or sync made durable.",
        transactions,
    ));
    families.push(Family::one(
        "flush",
        Some(Unit::Bytes),
        "Bytes that one durable write or sync made durable.",
        bytes,
    ));
    families
}
