//! What the rounds of a comparison say together: medians, ratios with an interval, percentiles.
//!
//! A round is one pass over all receivers. What disturbs the machine for a while disturbs a round, so a
//! receiver is compared with the baseline of the *same* rounds: the ratio divides the medians, and its
//! interval comes from drawing rounds, not runs (a paired bootstrap). Below [`FEWEST_ROUNDS`] rounds there is
//! no interval, and nothing is called a difference.

use std::collections::BTreeMap;

use base64::Engine;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;

use crate::results::{BASELINE, Case, Metric, Run};

/// With fewer rounds than this a ratio has no interval.
pub const FEWEST_ROUNDS: usize = 3;

/// How often rounds are drawn for an interval.
const DRAWS: usize = 2000;

/// Where the generator of the draws starts, so that a report made again says the same.
const SEED: u64 = 0x57A1_2106;

/// Nanoseconds in a millisecond.
const NS_PER_MS: f64 = 1e6;

/// A measure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The median; of an even number of rounds the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub smallest: f64,
    /// The largest.
    pub largest: f64,
    /// How many rounds.
    pub rounds: usize,
}

impl Summary {
    /// Of these values, one a round; values that are not finite are left out. `None` if none is left.
    pub fn of(values: &[f64]) -> Option<Summary> {
        let mut values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        let median = median(&mut values)?;
        Some(Summary {
            median,
            smallest: values[0],
            largest: values[values.len() - 1],
            rounds: values.len(),
        })
    }

    /// The spread between the rounds, as a share of the median: `(largest - smallest) / median`. `None`
    /// for a single round and where the median is zero.
    pub fn spread(&self) -> Option<f64> {
        let spread = (self.largest - self.smallest) / self.median.abs();
        (self.rounds > 1 && spread.is_finite()).then_some(spread)
    }
}

/// Sorts the values, and gives the one in the middle.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// A receiver's median divided by the baseline's, over the rounds in which both ran.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The receiver's median, in the measure's unit.
    pub receiver: f64,
    /// The baseline's.
    pub baseline: f64,
    /// `receiver / baseline`.
    pub value: f64,
    /// What 95 % of the drawn rounds gave; `None` with fewer than [`FEWEST_ROUNDS`] rounds.
    pub interval: Option<(f64, f64)>,
    /// In how many rounds both ran.
    pub rounds: usize,
}

impl Ratio {
    /// Of pairs `(receiver, baseline)`, one a round. `None` without pairs, and where the baseline is not
    /// above zero, for then there is nothing to divide by.
    pub fn of(pairs: &[(f64, f64)]) -> Option<Ratio> {
        let comparable = |&(receiver, baseline): &(f64, f64)| receiver.is_finite() && baseline.is_finite();
        let pairs: Vec<(f64, f64)> = pairs.iter().copied().filter(comparable).collect();
        if pairs.iter().any(|&(_, baseline)| baseline <= 0.0) {
            return None;
        }
        let (receiver, baseline) = medians(&pairs)?;
        Some(Ratio {
            receiver,
            baseline,
            value: receiver / baseline,
            interval: (pairs.len() >= FEWEST_ROUNDS).then(|| interval(&pairs)).flatten(),
            rounds: pairs.len(),
        })
    }

    /// What the ratio says. A difference counts only where the interval excludes 1.
    pub fn verdict(&self, higher_is_better: bool) -> Verdict {
        match self.interval {
            None => Verdict::TooFewRounds,
            Some((_, high)) if high < 1.0 && higher_is_better => Verdict::Worse,
            Some((_, high)) if high < 1.0 => Verdict::Better,
            Some((low, _)) if low > 1.0 && higher_is_better => Verdict::Better,
            Some((low, _)) if low > 1.0 => Verdict::Worse,
            Some(_) => Verdict::NoDifference,
        }
    }
}

/// The medians of both sides.
fn medians(pairs: &[(f64, f64)]) -> Option<(f64, f64)> {
    let (mut receiver, mut baseline): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    Some((median(&mut receiver)?, median(&mut baseline)?))
}

/// From the 2.5th to the 97.5th percentile of the ratios of drawn rounds.
fn interval(pairs: &[(f64, f64)]) -> Option<(f64, f64)> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut receiver = vec![0.0; pairs.len()];
    let mut baseline = vec![0.0; pairs.len()];
    let mut ratios = Vec::with_capacity(DRAWS);
    for _ in 0..DRAWS {
        for place in 0..pairs.len() {
            (receiver[place], baseline[place]) = pairs[random.usize(..pairs.len())];
        }
        ratios.push(median(&mut receiver)? / median(&mut baseline)?);
    }
    ratios.sort_by(f64::total_cmp);
    let tail = DRAWS / 40;
    Some((ratios[tail], ratios[DRAWS - 1 - tail]))
}

/// What a ratio says of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The interval is on the good side of 1.
    Better,
    /// It is on the bad side.
    Worse,
    /// It holds 1.
    NoDifference,
    /// There is no interval.
    TooFewRounds,
}

/// One measure of one receiver in one case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    /// Over all its rounds.
    pub summary: Summary,
    /// Against the baseline; `None` for the baseline itself, and where it cannot be compared.
    pub ratio: Option<Ratio>,
}

/// All measures of a case.
#[derive(Debug, Default)]
pub struct Findings {
    by_receiver: BTreeMap<String, BTreeMap<Metric, Finding>>,
}

impl Findings {
    /// Of all the case's runs.
    pub fn of(case: &Case) -> Findings {
        let rounds = values_by_round(case);
        let empty = BTreeMap::new();
        let mut by_receiver: BTreeMap<String, BTreeMap<Metric, Finding>> = BTreeMap::new();
        for (&(receiver, metric), values) in &rounds {
            let all: Vec<f64> = values.values().copied().collect();
            let Some(summary) = Summary::of(&all) else {
                continue;
            };
            let baseline = rounds.get(&(BASELINE, metric)).unwrap_or(&empty);
            let pairs: Vec<(f64, f64)> = values
                .iter()
                .filter_map(|(round, value)| Some((*value, *baseline.get(round)?)))
                .collect();
            let ratio = (receiver != BASELINE).then(|| Ratio::of(&pairs)).flatten();
            by_receiver
                .entry(receiver.to_owned())
                .or_default()
                .insert(metric, Finding { summary, ratio });
        }
        Findings { by_receiver }
    }

    /// One of them.
    pub fn find(&self, receiver: &str, metric: Metric) -> Option<&Finding> {
        self.by_receiver.get(receiver)?.get(&metric)
    }

    /// All of one receiver's.
    pub fn receiver(&self, receiver: &str) -> impl Iterator<Item = (Metric, &Finding)> {
        self.by_receiver
            .get(receiver)
            .into_iter()
            .flatten()
            .map(|(metric, finding)| (*metric, finding))
    }

    /// Whether any receiver has this measure.
    pub fn has(&self, metric: Metric) -> bool {
        self.by_receiver
            .values()
            .any(|findings| findings.contains_key(&metric))
    }

    /// The spread of the baseline between the rounds, as a share of its median.
    pub fn noise(&self, metric: Metric) -> Option<f64> {
        self.find(BASELINE, metric)?.summary.spread()
    }
}

/// The values, by receiver and measure, then by round. A round made more than once counts once, with the median.
fn values_by_round(case: &Case) -> BTreeMap<(&str, Metric), BTreeMap<u32, f64>> {
    let mut all: BTreeMap<(&str, Metric), BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    for run in &case.runs {
        for (&metric, &value) in run.measures.iter().filter(|(_, value)| value.is_finite()) {
            let rounds = all.entry((run.receiver.as_str(), metric)).or_default();
            rounds.entry(run.round).or_default().push(value);
        }
    }
    let once = |rounds: BTreeMap<u32, Vec<f64>>| {
        rounds
            .into_iter()
            .filter_map(|(round, mut values)| Some((round, median(&mut values)?)))
            .collect()
    };
    all.into_iter().map(|(key, rounds)| (key, once(rounds))).collect()
}

/// The latencies of one receiver in one case.
#[derive(Debug, Clone)]
pub struct Latencies {
    rounds: BTreeMap<u32, Quantiles>,
    /// All rounds together.
    merged: Quantiles,
}

impl Latencies {
    /// Of all the receiver's runs that have any. `Ok(None)` where none has; an error says which run's
    /// histogram cannot be read.
    pub fn of(case: &Case, receiver: &str) -> Result<Option<Latencies>, String> {
        let mut rounds: BTreeMap<u32, Histogram<u64>> = BTreeMap::new();
        for run in case.runs.iter().filter(|run| run.receiver == receiver) {
            let Some(histogram) = histogram_of(run)? else {
                continue;
            };
            match rounds.get_mut(&run.round) {
                Some(same) => same
                    .add(&histogram)
                    .map_err(|error| format!("{}: {error}", whose(run)))?,
                None => drop(rounds.insert(run.round, histogram)),
            }
        }
        let mut all = rounds.values();
        let Some(mut merged) = all.next().cloned() else {
            return Ok(None);
        };
        merged.auto(true);
        for histogram in all {
            merged
                .add(histogram)
                .map_err(|error| format!("latencies of {receiver} cannot be merged: {error}"))?;
        }
        let rounds = rounds
            .iter()
            .map(|(round, histogram)| (*round, Quantiles::of(histogram)))
            .collect();
        Ok(Some(Latencies {
            rounds,
            merged: Quantiles::of(&merged),
        }))
    }

    /// How many commits.
    pub fn commits(&self) -> u64 {
        self.merged.total
    }

    /// The latency, ms, that this share of all rounds' commits does not exceed.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        self.merged.at_ms(share)
    }

    /// What a commit at this quantile saves against the baseline, ms, over the rounds in which both ran;
    /// below zero where it costs more.
    pub fn saved_ms(&self, baseline: &Latencies, share: f64) -> Option<Summary> {
        let saved = |(round, own): (&u32, &Quantiles)| {
            Some(baseline.rounds.get(round)?.at_ms(share) - own.at_ms(share))
        };
        Summary::of(&self.rounds.iter().filter_map(saved).collect::<Vec<_>>())
    }
}

/// A histogram for looking up many quantiles: it is searched, not walked through.
#[derive(Debug, Clone)]
struct Quantiles {
    /// A latency in ns, and how many are no longer; ascending in both, never empty.
    cumulated: Vec<(u64, u64)>,
    total: u64,
}

impl Quantiles {
    /// Of a histogram that is not empty.
    fn of(histogram: &Histogram<u64>) -> Quantiles {
        let mut total = 0;
        let mut cumulated = Vec::new();
        for recorded in histogram.iter_recorded() {
            total += recorded.count_at_value();
            cumulated.push((recorded.value_iterated_to(), total));
        }
        Quantiles { cumulated, total }
    }

    /// The latency, ms, that this share does not exceed: the nearest rank.
    fn at_ms(&self, share: f64) -> f64 {
        // A product that is a hair above a whole rank means that rank.
        let rank = (share.clamp(0.0, 1.0) * self.total as f64 - 1e-6).ceil().max(1.0) as u64;
        let place = self.cumulated.partition_point(|(_, count)| *count < rank);
        let found = self.cumulated.get(place).or(self.cumulated.last());
        found.map_or(f64::NAN, |(nanoseconds, _)| *nanoseconds as f64 / NS_PER_MS)
    }
}

/// A run, for an error.
fn whose(run: &Run) -> String {
    format!(
        "latencies of {}, round {}, cannot be read",
        run.receiver, run.round
    )
}

/// The run's latencies, in ns. An empty histogram counts as none.
fn histogram_of(run: &Run) -> Result<Option<Histogram<u64>>, String> {
    let Some(text) = &run.latencies else {
        return Ok(None);
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| format!("{}: {error}", whose(run)))?;
    let histogram: Histogram<u64> = Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| format!("{}: {error}", whose(run)))?;
    Ok((!histogram.is_empty()).then_some(histogram))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Summary::of(&[f64::NAN, f64::INFINITY]), None);
        assert_eq!(Summary::of(&[1.0, 2.0, 4.0]).unwrap().spread(), Some(1.5));
        assert_eq!(Summary::of(&[1.0]).unwrap().spread(), None);
    }

    #[test]
    fn rounds_are_paired_so_that_what_slows_a_round_slows_both() {
        // The receiver takes half in every round, though the rounds differ by a factor of 100.
        let pairs: Vec<_> = [1.0, 10.0, 100.0, 30.0].map(|base| (base / 2.0, base)).into();
        let ratio = Ratio::of(&pairs).unwrap();
        assert_eq!((ratio.value, ratio.interval), (0.5, Some((0.5, 0.5))));
        assert_eq!(ratio.verdict(false), Verdict::Better);
        assert_eq!(ratio.verdict(true), Verdict::Worse);
    }

    #[test]
    fn an_interval_that_holds_1_is_no_difference() {
        let ratio = Ratio::of(&[(9.0, 10.0), (12.0, 10.0), (8.0, 10.0), (10.5, 10.0)]).unwrap();
        let (low, high) = ratio.interval.unwrap();
        assert!(low < ratio.value && ratio.value < high, "{ratio:?}");
        assert_eq!(ratio.verdict(false), Verdict::NoDifference);
    }

    #[test]
    fn two_rounds_have_a_ratio_but_no_interval() {
        let ratio = Ratio::of(&[(1.0, 10.0), (1.0, 10.0)]).unwrap();
        assert_eq!((ratio.value, ratio.interval), (0.1, None));
        assert_eq!(ratio.verdict(false), Verdict::TooFewRounds);
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        assert_eq!(Ratio::of(&[(1.0, 0.0), (1.0, 1.0), (1.0, 1.0)]), None);
        assert_eq!(Ratio::of(&[]), None);
        assert_eq!(Ratio::of(&[(f64::NAN, 1.0)]), None);
    }
}
