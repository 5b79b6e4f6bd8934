//! What the page is made of: gauges, counters and histograms, and how each is encoded.

use std::fmt;

use hdrhistogram::Histogram;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::core::lsn::Lsn;
use crate::edge::observation::known;

/// A number that goes up and down; without a value while it is not known.
#[derive(Debug, Clone)]
pub(super) struct Gauge {
    name: &'static str,
    help: &'static str,
    value: Option<Value>,
}

/// A number that only grows.
#[derive(Debug)]
pub(super) struct Counter {
    name: &'static str,
    help: &'static str,
    value: u64,
}

#[derive(Debug, Clone, Copy)]
enum Value {
    Whole(u64),
    Real(f64),
}

/// Histograms of one name.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    /// Each with the value of its label `method`, if it has one.
    members: Vec<(Option<&'static str>, Buckets)>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Buckets {
    sum: f64,
    count: u64,
    /// Upper bounds, and how many values lie between them and the bound before.
    counts: Vec<(f64, u64)>,
}

impl Buckets {
    /// Sorts a histogram's values into buckets. Bounds are as exact as the histogram: values within its
    /// precision, a thousandth or a hundredth, may count as the bound. Units are divided by `scale`.
    pub(super) fn of(histogram: &Histogram<u64>, bounds: &[u64], scale: f64) -> Buckets {
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

impl Gauge {
    /// A number without a fraction.
    pub(super) fn whole(name: &'static str, help: &'static str, value: impl Into<Option<u64>>) -> Gauge {
        let value = value.into().map(Value::Whole);
        Gauge { name, help, value }
    }

    /// Seconds, and what else has a fraction or may be negative.
    pub(super) fn real(name: &'static str, help: &'static str, value: impl Into<Option<f64>>) -> Gauge {
        let value = value.into().map(Value::Real);
        Gauge { name, help, value }
    }

    /// A position; the invalid one is not known.
    pub(super) fn position(name: &'static str, help: &'static str, lsn: Lsn) -> Gauge {
        Gauge::whole(name, help, known(lsn).map(|lsn| lsn.0))
    }

    pub(super) fn encode(
        &self,
        encoder: &mut DescriptorEncoder,
        labels: &[(&'static str, String)],
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        match (self.value, labels) {
            (None, _) => Ok(()),
            (Some(value), []) => value.encode(&mut metric),
            (Some(value), labels) => value.encode(&mut metric.encode_family(&labels)?),
        }
    }
}

impl Counter {
    pub(super) fn new(name: &'static str, help: &'static str, value: u64) -> Counter {
        Counter { name, help, value }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, u64, f64>(&self.value, None)
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
    /// One histogram.
    pub(super) fn one(
        name: &'static str,
        unit: Option<Unit>,
        help: &'static str,
        buckets: Buckets,
    ) -> Family {
        let members = vec![(None, buckets)];
        Family {
            name,
            unit,
            help,
            members,
        }
    }

    /// One histogram for each method, told apart by the label `method`.
    pub(super) fn by_method(
        name: &'static str,
        unit: Option<Unit>,
        help: &'static str,
        methods: impl IntoIterator<Item = (&'static str, Buckets)>,
    ) -> Family {
        let methods = methods.into_iter();
        Family {
            name,
            unit,
            help,
            members: methods.map(|(method, buckets)| (Some(method), buckets)).collect(),
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_of_the_next_bound() {
        let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        for value in [1, 10, 11, 25, 26, 2_500, 10_000_000, 11_000_000, 600_000_000] {
            histogram.record(value).unwrap();
        }
        let buckets = Buckets::of(&histogram, &[10, 25, 50, 2_500, 10_000_000], 1e6);
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
        let buckets = Buckets::of(&histogram, &[0, 1, 2], 1.0);
        assert_eq!((buckets.counts[0], buckets.counts[1]), ((0.0, 1), (1.0, 1)));
    }
}
