//! What is worth telling, without I/O: measurements come in, and go out as reports only where they are news. What is
//! measured again and again on the same data is the same; a line at rest costs next to nothing.

use secateur_common::{Accuracy, ByteCount, Generation, Micros, Report, VariantId};

/// Measurements that are told with what has just come into force: the coordinator believes a latency when it is confirmed.
const AT_FIRST: u32 = 3;
/// The longest that nothing is told, seconds.
const AT_LEAST_S: u64 = 3600;
/// News of times, energies and sizes, which a busy machine makes up: one in so many seconds,
const NOISE_S: u64 = 3600;
/// and so many at once after a quiet time.
const NOISE: u64 = 4;
/// Times and sizes that differ by less are the same: a quarter.
const SAME: (u64, u64) = (5, 4);

/// What was told, and what that leaves to be told.
#[derive(Clone, Debug, Default)]
pub struct Telling {
    told: Option<Told>,
    /// Measurements that are told whatever they say.
    owed: u32,
    /// Every measurement is to be told.
    watched: bool,
    /// Seconds that news of times and sizes may still take, as of the last look.
    allowance_s: u64,
    looked_s: u64,
    /// The 95th percentile measured before.
    before: Option<Micros>,
}

#[derive(Clone, Debug)]
struct Told {
    at_s: u64,
    what: (VariantId, Generation),
    accuracy: Accuracy,
    p95: Micros,
    /// Nanojoules; 0 where nothing tells.
    energy: u64,
    memory: ByteCount,
    stored: ByteCount,
}

impl Telling {
    /// A session begins: what the coordinator knows is not known here.
    pub fn connected(&mut self) {
        self.owed = self.owed.max(1);
    }

    /// Whether the coordinator wants every measurement.
    pub fn watch(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// Whether a measurement at `now_s` is to be told; if so, it counts as told. `fresh`: it counts answers that no other
    /// will count again. A clock that is set back makes news.
    pub fn tells(&mut self, report: &Report, fresh: bool, now_s: u64) -> bool {
        let lower = self.before.replace(report.latency.p95).unwrap_or(report.latency.p95);
        let seen = Told {
            at_s: now_s,
            what: (report.variant, report.generation),
            accuracy: report.accuracy,
            // As the coordinator sees it: one disturbed measurement is none.
            p95: report.latency.p95.min(lower),
            energy: report.sensed.energy_per_inference_nj.unwrap_or(0),
            memory: report.memory.inference_peak,
            stored: report.model_bytes,
        };
        self.earn(now_s);
        let changed = self.told.as_ref().is_none_or(|told| told.what != seen.what);
        if changed {
            (self.owed, self.before) = (AT_FIRST, Some(report.latency.p95));
        }
        let tells = self.watched || fresh || self.owed > 0 || self.is_news(&seen);
        if tells {
            self.owed = self.owed.saturating_sub(1);
            self.told = Some(seen);
        }
        tells
    }

    /// Whether `seen` differs from what was told, or that was long ago.
    fn is_news(&mut self, seen: &Told) -> bool {
        let Some(told) = &self.told else { return true };
        if told.accuracy != seen.accuracy || seen.at_s.abs_diff(told.at_s) >= AT_LEAST_S {
            return true;
        }
        let same = |a: u64, b: u64| {
            u128::from(a.max(b)) * u128::from(SAME.1) <= u128::from(a.min(b)) * u128::from(SAME.0)
        };
        let quiet = same(told.p95.get(), seen.p95.get())
            && same(told.energy, seen.energy)
            && same(told.memory.get(), seen.memory.get())
            && same(told.stored.get(), seen.stored.get());
        if quiet || self.allowance_s < NOISE_S {
            return false;
        }
        self.allowance_s -= NOISE_S;
        self.owed = 2; // with its confirmation
        true
    }

    fn earn(&mut self, now_s: u64) {
        let most = NOISE * NOISE_S;
        let since = if self.told.is_none() { most } else { now_s.saturating_sub(self.looked_s) };
        (self.allowance_s, self.looked_s) = (self.allowance_s.saturating_add(since).min(most), now_s);
    }
}

#[cfg(test)]
mod tests {
    use secateur_common::{Digest, LatencySummary};

    use super::*;

    const DAY_S: u64 = 86_400;

    fn report(generation: u64, correct: u64, p95: u64) -> Report {
        let p95 = Micros(p95);
        Report {
            sequence: 0,
            model: "m".parse().unwrap(),
            variant: VariantId(Digest::from_bytes([1; 32])),
            generation: Generation(generation),
            accuracy: Accuracy { samples: 400, correct },
            latency: LatencySummary { count: 400, p50: p95, p95, p99: p95 },
            memory: Default::default(),
            sensed: Default::default(),
            model_bytes: ByteCount(1000),
            disk_bytes: ByteCount(0),
            wire_bytes: ByteCount(0),
            today: Default::default(),
        }
    }

    /// How many of the measurements of a day, ten seconds apart, are told.
    fn told_in_a_day(telling: &mut Telling, mut p95: impl FnMut(u64) -> u64) -> usize {
        let at = (0..DAY_S / 10).map(|turn| turn * 10);
        at.filter(|&now| telling.tells(&report(1, 300, p95(now)), false, now)).count()
    }

    #[test]
    fn a_day_at_rest_is_a_few_reports_at_first_and_one_an_hour() {
        assert_eq!(told_in_a_day(&mut Telling::default(), |_| 900), 3 + 23);
        assert_eq!(
            told_in_a_day(&mut Telling::default(), |now| 900 + now % 100),
            3 + 23,
            "jitter is no news"
        );
        let mut lone = |now: u64| if now % 100 == 50 { 5000 } else { 900 };
        assert_eq!(
            told_in_a_day(&mut Telling::default(), &mut lone),
            3 + 23,
            "one disturbed measurement is none"
        );
    }

    #[test]
    fn noise_is_bounded_whatever_it_is() {
        let mut state = 7u64;
        let mut random = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            100 << (state >> 60)
        };
        let told = told_in_a_day(&mut Telling::default(), &mut random);
        assert!((24..=3 + 2 * (4 + 24)).contains(&told), "{told}");
    }

    #[test]
    fn what_is_new_is_told_at_once() {
        let mut telling = Telling::default();
        let mut tells =
            |generation, correct, p95, now| telling.tells(&report(generation, correct, p95), false, now);
        let mut now = 0;
        let mut several = |generation, correct, p95| -> Vec<bool> {
            (0..5)
                .map(|_| {
                    now += 10;
                    tells(generation, correct, p95, now)
                })
                .collect()
        };
        assert_eq!(several(1, 300, 900), [true, true, true, false, false], "at first");
        assert_eq!(several(2, 300, 900), [true, true, true, false, false], "another generation");
        assert_eq!(several(2, 290, 900), [true, false, false, false, false], "other answers");
        assert_eq!(
            several(2, 290, 2000),
            [false, true, true, false, false],
            "a time, seen twice, with its confirmation"
        );
        assert_eq!(several(2, 290, 900), [true, true, false, false, false], "and back");
    }

    #[test]
    fn labels_watching_and_a_new_session_are_reasons() {
        let mut telling = Telling::default();
        let same = report(1, 300, 900);
        assert_eq!((0..4).filter(|_| telling.tells(&same, false, 0)).count(), 3);
        assert!(telling.tells(&same, true, 0), "labels count once: they are told or lost");
        telling.watch(true);
        assert!((0..9).all(|_| telling.tells(&same, false, 0)), "a canary's evidence");
        telling.watch(false);
        telling.connected();
        assert_eq!([telling.tells(&same, false, 0), telling.tells(&same, false, 0)], [true, false]);
    }
}
