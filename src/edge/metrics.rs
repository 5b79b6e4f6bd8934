//! The page for Prometheus.
//!
//! Names and codes follow postgres_exporter's `pg_stat_wal_receiver` where both know a thing: a board
//! made for a standby's receiver needs only the prefix changed. prometheus-client writes OpenMetrics;
//! the older text format differs in a few lines, and who asks for no OpenMetrics gets that.

use std::fmt;

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::observation::{Observation, known};
use crate::core::lsn::Lsn;
use crate::core::measure::{Measures, Times};

/// Upper bounds of the buckets of times, in microseconds: 10 µs to 10 s.
const TIMES_US: [u64; 19] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Upper bounds of the buckets of transactions.
const TRANSACTIONS: [u64; 10] = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500];

/// Upper bounds of the buckets of bytes: 256 B to 16 MiB.
const BYTES: [u64; 9] = [
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

/// How the page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4.
    Classic,
}

impl Format {
    /// OpenMetrics for those who ask for it by name, in the Accept headers of a request.
    pub fn wanted<'a>(accept: impl IntoIterator<Item = &'a hyper::header::HeaderValue>) -> Format {
        let names_it =
            |value: &hyper::header::HeaderValue| value.to_str().is_ok_and(|text| text.contains(OPEN_METRICS));
        match accept.into_iter().any(names_it) {
            true => Format::OpenMetrics,
            false => Format::Classic,
        }
    }

    /// What the answer says of itself.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text";

/// The page as of now.
pub fn page(observation: &Observation, format: Format) -> String {
    let mut registry = Registry::with_prefix("walring");
    registry.register_collector(Box::new(Page::of(observation)));
    let mut page = String::with_capacity(32 << 10);
    // Writing to a string does not fail.
    let _ = text::encode(&mut page, &registry);
    match format {
        Format::OpenMetrics => page,
        Format::Classic => classic(&page),
    }
}

/// The same page in text format 0.0.4: a counter's metadata have its samples' name; no units, no end.
fn classic(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut help = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let help = help.strip_prefix(name).unwrap_or_default();
            text += &format!("# HELP {name}{suffix}{help}\n# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// All numbers at one moment.
#[derive(Debug)]
struct Page {
    /// Of everything that is about the stream.
    labels: [(&'static str, String); 2],
    stream: Vec<Gauge>,
    process: Vec<Gauge>,
    counters: Vec<(&'static str, &'static str, u64)>,
    histograms: Vec<Family>,
}

/// A number that goes up and down; without a value while it is not known.
#[derive(Debug, Clone)]
struct Gauge {
    name: &'static str,
    help: &'static str,
    value: Option<Value>,
}

#[derive(Debug, Clone, Copy)]
enum Value {
    Whole(u64),
    Real(f64),
}

/// Histograms of one name.
#[derive(Debug)]
struct Family {
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    /// Each with the value of its label `method`, if it has one.
    members: Vec<(Option<&'static str>, Buckets)>,
}

#[derive(Debug, PartialEq)]
struct Buckets {
    sum: f64,
    count: u64,
    /// Upper bounds, and how many values lie between them and the bound before.
    counts: Vec<(f64, u64)>,
}

impl Buckets {
    /// Sorts a histogram's values into buckets. Bounds are as exact as the histogram: values within its
    /// precision, a thousandth or a hundredth, may count as the bound. Units are divided by `scale`.
    fn of(histogram: &Histogram<u64>, bounds: &[u64], scale: f64) -> Buckets {
        let mut counts: Vec<(f64, u64)> = bounds.iter().map(|&bound| (bound as f64 / scale, 0)).collect();
        counts.push((f64::INFINITY, 0));
        let (mut sum, mut count) = (0.0, 0);
        for step in histogram.iter_recorded() {
            let value = step.value_iterated_to();
            let bucket = bounds.partition_point(|&bound| bound < histogram.lowest_equivalent(value));
            counts[bucket].1 += step.count_at_value();
            count += step.count_at_value();
            sum += histogram.median_equivalent(value) as f64 * step.count_at_value() as f64;
        }
        Buckets {
            sum: sum / scale,
            count,
            counts,
        }
    }
}

impl Page {
    fn of(observation: &Observation) -> Page {
        let upstream = observation.telemetry().upstream();
        let slot = observation.slot_name().to_owned();
        Page {
            labels: [("upstream_host", upstream.host), ("slot_name", slot)],
            stream: [
                positions(observation),
                state(observation),
                watched_slot(observation),
            ]
            .concat(),
            process: process(observation),
            counters: counters(observation),
            histograms: histograms(observation),
        }
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for gauge in &self.stream {
            gauge.encode(&mut encoder, &self.labels)?;
        }
        for gauge in &self.process {
            gauge.encode(&mut encoder, &[])?;
        }
        for (name, help, value) in &self.counters {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, u64, f64>(value, None)?;
        }
        for family in &self.histograms {
            family.encode(&mut encoder)?;
        }
        let help = "Always 1; the version is in the label.";
        let mut metric = encoder.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        metric.encode_family(&version)?.encode_gauge(&1u64)
    }
}

impl Gauge {
    fn encode(&self, encoder: &mut DescriptorEncoder, labels: &[(&'static str, String)]) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        match (self.value, labels) {
            (None, _) => Ok(()),
            (Some(value), []) => value.encode(&mut metric),
            (Some(value), labels) => value.encode(&mut metric.encode_family(&labels)?),
        }
    }
}

impl Value {
    fn encode(self, metric: &mut MetricEncoder) -> fmt::Result {
        match self {
            Value::Whole(value) => metric.encode_gauge(&value),
            Value::Real(value) => metric.encode_gauge(&value),
        }
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let unit = self.unit.as_ref();
        let mut metric = encoder.encode_descriptor(self.name, self.help, unit, MetricType::Histogram)?;
        for (method, buckets) in &self.members {
            let Buckets { sum, count, counts } = buckets;
            match method {
                Some(method) => {
                    let label = [("method", *method)];
                    let mut member = metric.encode_family(&label)?;
                    member.encode_histogram::<NoLabelSet>(*sum, *count, counts, None)?;
                }
                None => metric.encode_histogram::<NoLabelSet>(*sum, *count, counts, None)?,
            }
        }
        Ok(())
    }
}

fn position(name: &'static str, help: &'static str, lsn: Lsn) -> Gauge {
    Gauge {
        name,
        help,
        value: known(lsn).map(|lsn| Value::Whole(lsn.0)),
    }
}

fn whole(name: &'static str, help: &'static str, value: impl Into<Option<u64>>) -> Gauge {
    Gauge {
        name,
        help,
        value: value.into().map(Value::Whole),
    }
}

fn real(name: &'static str, help: &'static str, value: impl Into<Option<f64>>) -> Gauge {
    Gauge {
        name,
        help,
        value: value.into().map(Value::Real),
    }
}

fn positions(observation: &Observation) -> Vec<Gauge> {
    let telemetry = observation.telemetry();
    vec![
        position(
            "receive_start_lsn",
            "Where streaming began on this connection.",
            telemetry.start.value(),
        ),
        position(
            "received_lsn",
            "The end of the WAL that arrived.",
            telemetry.received.value(),
        ),
        position(
            "verified_lsn",
            "The end of the WAL that was verified.",
            telemetry.verified.value(),
        ),
        position(
            "written_lsn",
            "The end of the WAL that was written.",
            telemetry.written.value(),
        ),
        position(
            "flush_lsn",
            "The end of the WAL that is durable.",
            telemetry.flushed.value(),
        ),
        position(
            "reported_flush_lsn",
            "The flush position that the server was told last.",
            telemetry.reported.value(),
        ),
        position(
            "latest_end_lsn",
            "How far the server could send when it spoke last.",
            telemetry.server_end.value(),
        ),
    ]
}

fn state(observation: &Observation) -> Vec<Gauge> {
    let telemetry = observation.telemetry();
    let seconds = |moment: Option<i64>| moment.map(|us| us as f64 / 1e6);
    vec![
        whole(
            "receiver_status",
            "0 stopped, 1 starting, 2 streaming, 3 waiting, 4 restarting.",
            telemetry.activity() as u64,
        ),
        whole(
            "healthy",
            "1 while WAL streams and neither the server nor the disk has stalled, as /healthz says.",
            u64::from(observation.ailment().is_none()),
        ),
        whole(
            "received_tli",
            "The timeline that is received.",
            telemetry.timeline().map(|timeline| u64::from(timeline.0)),
        ),
        real(
            "last_msg_send_time",
            "When the server sent its last message, in seconds since 1970, by its clock.",
            seconds(telemetry.last_send.value()),
        ),
        real(
            "last_msg_receipt_time",
            "When the last message arrived, in seconds since 1970.",
            seconds(telemetry.last_receipt.value()),
        ),
        real(
            "last_commit_time",
            "When the last commit that is durable here was made, in seconds since 1970, by the server's clock.",
            seconds(telemetry.last_commit.value()),
        ),
        whole(
            "lag_bytes",
            "WAL that the server is known to have and that is not durable here.",
            observation.lag_bytes(),
        ),
        real(
            "lag_seconds",
            "How long there has been such WAL; without a connection at least since it was lost.",
            observation.lag().as_secs_f64(),
        ),
    ]
}

/// What the server says of the slot, in postgres_exporter's words (`pg_replication_slot`), if it is looked after.
fn watched_slot(observation: &Observation) -> Vec<Gauge> {
    if !observation.watches_slot() {
        return Vec::new();
    }
    let state = observation.slot_state();
    let state = state.as_ref();
    vec![
        whole(
            "slot_watch_up",
            "1 while the server tells about the replication slot.",
            u64::from(state.is_some()),
        ),
        whole(
            "slot_wal_status",
            "0 lost, 1 unreserved, 2 extended, 3 reserved.",
            state
                .and_then(|state| state.wal_status)
                .map(|status| status as u64),
        ),
        real(
            "slot_safe_wal_size_bytes",
            "How much more WAL can be written before the slot is lost.",
            state
                .and_then(|state| state.safe_wal_bytes)
                .map(|bytes| bytes as f64),
        ),
        position(
            "slot_restart_lsn",
            "The oldest position that the server keeps for the slot.",
            state.and_then(|state| state.restart_lsn).unwrap_or(Lsn::INVALID),
        ),
        whole(
            "slot_is_active",
            "1 while somebody streams from the slot.",
            state.map(|state| u64::from(state.active)),
        ),
    ]
}

fn process(observation: &Observation) -> Vec<Gauge> {
    let savings = observation.savings().map(|savings| {
        real(
            "saved_seconds",
            "An estimate of the time that commits did not wait, against the standard path on this disk.",
            savings.total_seconds,
        )
    });
    let gauges = [
        whole(
            "free_bytes",
            "Space for an unprivileged user on the directory's file system.",
            observation.free_bytes(),
        ),
        whole(
            "disk_full",
            "1 while there is no room for the next segment; once that is needed, nothing is received.",
            u64::from(observation.telemetry().missing_room() > 0),
        ),
        real(
            "uptime_seconds",
            "How long the process has been running.",
            observation.uptime().as_secs_f64(),
        ),
    ];
    gauges.into_iter().chain(savings).collect()
}

fn counters(observation: &Observation) -> Vec<(&'static str, &'static str, u64)> {
    let telemetry = observation.telemetry();
    let counter = |name, help, value| (name, help, value);
    vec![
        counter(
            "wal_bytes_received",
            "WAL received, in bytes.",
            telemetry.received_bytes.value(),
        ),
        counter(
            "messages_received",
            "WAL messages received.",
            telemetry.messages.value(),
        ),
        counter(
            "transactions",
            "COMMIT and COMMIT PREPARED records received.",
            telemetry.transactions.value(),
        ),
        counter("records_verified", "Records verified.", telemetry.records.value()),
        counter(
            "segments_completed",
            "Segments completed.",
            telemetry.segments.value(),
        ),
        counter(
            "reconnects",
            "Connections after the first.",
            telemetry.reconnects.value(),
        ),
        counter(
            "disk_io_errors",
            "Operations of the disk that failed.",
            telemetry.disk_errors.value(),
        ),
        counter(
            "verification_failures",
            "Pages or records that failed verification.",
            telemetry.verification_failures.value(),
        ),
    ]
}

type WhichTimes = fn(&Measures) -> &Times;

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

fn histograms(observation: &Observation) -> Vec<Family> {
    let times =
        |which: WhichTimes| observation.times(which, |histogram| Buckets::of(histogram, &TIMES_US, 1e6));
    let mut families: Vec<Family> = TIMES
        .iter()
        .map(|&(name, help, which)| Family {
            name,
            unit: Some(Unit::Seconds),
            help,
            members: vec![(None, times(which))],
        })
        .collect();
    families.push(Family {
        name: "flush",
        unit: Some(Unit::Seconds),
        help: "What makes WAL durable: writes that are durable when they end, and syncs.",
        members: vec![
            (Some("durable_write"), times(|measures| &measures.durable_write)),
            (Some("sync"), times(|measures| &measures.sync)),
        ],
    });
    let measures = observation.telemetry().measures();
    let transactions = Buckets::of(measures.transactions_per_flush.histogram(), &TRANSACTIONS, 1.0);
    let bytes = Buckets::of(measures.bytes_per_flush.histogram(), &BYTES, 1.0);
    drop(measures);
    families.push(Family {
        name: "flush_transactions",
        unit: None,
        help: "Transactions that one durable write or sync made durable.",
        members: vec![(None, transactions)],
    });
    families.push(Family {
        name: "flush",
        unit: Some(Unit::Bytes),
        help: "Bytes that one durable write or sync made durable.",
        members: vec![(None, bytes)],
    });
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_of_the_next_bound() {
        let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        for value in [1, 10, 11, 25, 26, 2_500, 10_000_000, 11_000_000, 600_000_000] {
            histogram.record(value).unwrap();
        }
        let buckets = Buckets::of(&histogram, &TIMES_US, 1e6);
        assert_eq!(buckets.count, 9);
        let filled: Vec<_> = buckets
            .counts
            .iter()
            .filter(|(_, count)| *count > 0)
            .copied()
            .collect();
        let expected = [
            (10e-6, 2),
            (25e-6, 2),
            (50e-6, 1),
            (2.5e-3, 1),
            (10.0, 1),
            (f64::INFINITY, 2),
        ];
        assert_eq!(filled, expected);
        assert!((buckets.sum - 621.002573).abs() < 0.7, "{}", buckets.sum);
    }

    #[test]
    fn zeros_count_too() {
        let mut histogram = Histogram::new_with_bounds(1, 1 << 30, 2).unwrap();
        histogram.record(0).unwrap();
        histogram.record(1).unwrap();
        let buckets = Buckets::of(&histogram, &TRANSACTIONS, 1.0);
        assert_eq!((buckets.counts[0], buckets.counts[1]), ((0.0, 1), (1.0, 1)));
    }

    #[test]
    fn the_classic_page_names_counters_as_their_samples_and_has_no_end() {
        let open = "# HELP a Bytes of a.\n# TYPE a counter\na_total 1\n\
            # HELP b_seconds B.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 2\n# EOF\n";
        let expected = "# HELP a_total Bytes of a.\n# TYPE a_total counter\na_total 1\n\
            # HELP b_seconds B.\n# TYPE b_seconds gauge\nb_seconds 2\n";
        assert_eq!(classic(open), expected);
    }
}
