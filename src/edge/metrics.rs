//! The page for Prometheus.
//!
//! Names and codes follow postgres_exporter's `pg_stat_wal_receiver` where both know a thing: a board
//! made for a standby's receiver needs only the prefix changed. prometheus-client writes OpenMetrics;
//! the older text format differs in a few lines, and who asks for no OpenMetrics gets that.

mod catalogue;
mod numbers;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use self::numbers::{Counter, Family, Gauge};
use super::observation::Observation;

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
    counters: Vec<Counter>,
    histograms: Vec<Family>,
}

impl Page {
    fn of(observation: &Observation) -> Page {
        let upstream = observation.telemetry().upstream();
        let slot = observation.slot_name().to_owned();
        Page {
            labels: [("upstream_host", upstream.host), ("slot_name", slot)],
            stream: [
                catalogue::positions(observation),
                catalogue::state(observation),
                catalogue::watched_slot(observation),
            ]
            .concat(),
            process: catalogue::process(observation),
            counters: catalogue::counters(observation),
            histograms: catalogue::histograms(observation),
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
        for counter in &self.counters {
            counter.encode(&mut encoder)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_page_names_counters_as_their_samples_and_has_no_end() {
        let open = "# HELP a Bytes of a.\n# TYPE a counter\na_total 1\n\
            # HELP b_seconds B.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 2\n# EOF\n";
        let expected = "# HELP a_total Bytes of a.\n# TYPE a_total counter\na_total 1\n\
            # HELP b_seconds B.\n# TYPE b_seconds gauge\nb_seconds 2\n";
        assert_eq!(classic(open), expected);
    }
}
