//! How an operator wants changes to be staged: canary, waves, what is judged and when devices may move.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Labels, ParseError, Selector, caps};

/// Staging of a group's changes. Without one, every change is released to all devices at once.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutPolicy {
    /// The first devices that run what is on trial; at least one.
    pub canary: Portion,
    /// Cumulative portions of the devices that the change moves, rising. All of them follow after the last.
    pub waves: Vec<Portion>,
    /// Devices that match an earlier selector go earlier; those that match none go last.
    pub order: Vec<Selector>,
    /// Disruption budget: devices that may be on their way to what is on trial at the same time; at least one.
    pub max_unavailable: Portion,
    /// When devices may be told to move. A rollback waits for no window.
    pub window: Option<Window>,
    /// After its last device was told to move, a stage is watched for at least this long, seconds.
    pub soak_s: u64,
    /// Reports with what is on trial after which a device counts as judged.
    pub min_reports: u64,
    /// Whether a device without any variant waits for the stages as well.
    pub first_install: bool,
    /// What halts a rollout.
    pub judge: JudgePolicy,
}

/// What halts a rollout and takes its devices back.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgePolicy {
    /// Loss of accuracy against each device's own earlier accuracy that is accepted, percentage points.
    pub max_accuracy_loss: f64,
    /// The median over devices of p95 on trial / p95 before that is accepted.
    pub max_latency_factor: f64,
    /// The same for the energy of an inference, where devices tell it.
    pub max_energy_factor: f64,
    /// Share of the devices on trial that may fail to activate.
    pub max_failures: Share,
    /// Probability at which a rollout that loses no more than is accepted may be halted for its accuracy, over all of
    /// its life and however often it is looked at.
    pub alpha: f64,
}

/// A share, 0 to 1; written `10%`.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Share(f64);

/// Some of the devices: a share of them, written `10%`, or a count.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Portion {
    /// So many.
    Count(u64),
    /// This share of all, rounded up.
    Of(Share),
}

/// A time of each day, UTC; written `22:00-04:00`. It may pass midnight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// Minute of the day at which it opens.
    opens: u16,
    /// Minute of the day at which it closes.
    closes: u16,
}

/// A portion as a fleet file has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Count(u64),
    Text(String),
}

const DAY_MINUTES: u16 = 24 * 60;

impl Default for RolloutPolicy {
    fn default() -> Self {
        let share = |value| Portion::Of(Share(value));
        Self {
            canary: share(0.05),
            waves: vec![share(0.1), share(0.25), share(0.5)],
            order: Vec::new(),
            max_unavailable: share(0.25),
            window: None,
            soak_s: 600,
            min_reports: 2,
            first_install: false,
            judge: JudgePolicy::default(),
        }
    }
}

impl Default for JudgePolicy {
    fn default() -> Self {
        Self {
            max_accuracy_loss: 1.0,
            max_latency_factor: 1.5,
            max_energy_factor: 1.5,
            max_failures: Share(0.1),
            alpha: 0.01,
        }
    }
}

impl RolloutPolicy {
    /// Checks the figures against each other and their caps.
    ///
    /// # Errors
    /// Names the key that breaks a rule.
    pub fn check(&self) -> Result<(), ParseError> {
        let bad = |what: &str, got: &dyn fmt::Display, expected| {
            Err(ParseError::new(what, &got.to_string(), expected))
        };
        if self.waves.len() > caps::WAVES {
            return bad("rollout.waves", &self.waves.len(), "at most 32 waves");
        }
        if self.order.len() > caps::LABELS {
            return bad("rollout.order", &self.order.len(), "at most 64 selectors");
        }
        // Counts and shares cannot be compared without the number of devices; then the larger so far holds.
        let falls = self.waves.windows(2).find(|pair| match (pair[0], pair[1]) {
            (Portion::Count(a), Portion::Count(b)) => b <= a,
            (Portion::Of(a), Portion::Of(b)) => b <= a,
            _ => false,
        });
        if let Some(pair) = falls {
            return bad("rollout.waves", &format!("{}, {}", pair[0], pair[1]), "portions that rise");
        }
        let JudgePolicy { max_accuracy_loss, max_latency_factor, max_energy_factor, alpha, .. } = self.judge;
        if !(0.0..=100.0).contains(&max_accuracy_loss) {
            return bad("rollout.judge.max_accuracy_loss", &max_accuracy_loss, "0 to 100 percentage points");
        }
        let factors = [
            ("rollout.judge.max_latency_factor", max_latency_factor),
            ("rollout.judge.max_energy_factor", max_energy_factor),
        ];
        if let Some((key, factor)) = factors.iter().find(|(_, factor)| !(1.0..=1000.0).contains(factor)) {
            return bad(key, factor, "a factor of 1 to 1000");
        }
        if !(1e-9..=0.5).contains(&alpha) {
            return bad("rollout.judge.alpha", &alpha, "a probability of at most 0.5");
        }
        Ok(())
    }

    /// How early a device with these labels goes: the index of the first selector that it matches.
    pub fn rank(&self, labels: &Labels) -> usize {
        self.order.iter().position(|selector| selector.matches(labels)).unwrap_or(self.order.len())
    }
}

impl Share {
    /// The share, 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Portion {
    /// How many of `all` devices this is: at least one, at most all.
    pub fn of(self, all: usize) -> usize {
        let count = match self {
            Self::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            // What floating point adds to a whole number makes no further device.
            Self::Of(Share(share)) => (share * all as f64 - 1e-9).ceil() as usize,
        };
        count.max(1).min(all)
    }
}

impl Window {
    /// Whether it is open, `unix_s` seconds after the Unix epoch.
    pub fn is_open(self, unix_s: u64) -> bool {
        let now = (unix_s / 60 % u64::from(DAY_MINUTES)) as u16;
        if self.opens <= self.closes {
            (self.opens..self.closes).contains(&now)
        } else {
            now >= self.opens || now < self.closes
        }
    }
}

impl FromStr for Share {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let percent = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        let share = percent.map(|percent| percent / 100.0).filter(|share| (0.0..=1.0).contains(share));
        share.map(Self).ok_or_else(|| ParseError::new("share", text, "0% to 100%"))
    }
}

impl FromStr for Portion {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let share = || text.parse().map(Self::Of);
        text.trim().parse().map(Self::Count).or_else(|_| share()).map_err(|_: ParseError| {
            ParseError::new("portion", text, "a share such as 10%, or a count of devices")
        })
    }
}

impl FromStr for Window {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let minute = |text: &str| -> Option<u16> {
            let (hour, minute) = text.trim().split_once(':')?;
            let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
            (hour < 24 && minute < 60).then_some(hour * 60 + minute)
        };
        let parse = || {
            let (opens, closes) = text.split_once('-')?;
            Some(Self { opens: minute(opens)?, closes: minute(closes)? })
        };
        let window = parse().filter(|window| window.opens != window.closes);
        window
            .ok_or_else(|| ParseError::new("window", text, "two times of the day, UTC, such as 22:00-04:00"))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded so that 0.07 reads 7% and not what its product with 100 is in binary.
        write!(f, "{}%", (self.0 * 1e8).round() / 1e6)
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Of(share) => share.fmt(f),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [opens, closes] = [self.opens, self.closes].map(|minute| (minute / 60, minute % 60));
        write!(f, "{:02}:{:02}-{:02}:{:02}", opens.0, opens.1, closes.0, closes.1)
    }
}

/// Text forms for serde, by `FromStr` and `Display`.
macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl TryFrom<String> for $name {
            type Error = ParseError;
            fn try_from(text: String) -> Result<Self, ParseError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}

as_text!(Share, Window);

impl TryFrom<Written> for Portion {
    type Error = ParseError;

    fn try_from(written: Written) -> Result<Self, ParseError> {
        match written {
            Written::Count(count) => Ok(Self::Count(count)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Portion> for Written {
    fn from(portion: Portion) -> Self {
        match portion {
            Portion::Count(count) => Self::Count(count),
            Portion::Of(share) => Self::Text(share.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portion(text: &str) -> Portion {
        text.parse().unwrap()
    }

    #[test]
    fn portions_are_of_all_and_at_least_one() {
        let of = |text, all| portion(text).of(all);
        assert_eq!((of("5%", 6), of("5%", 100), of("7%", 100), of("50%", 7)), (1, 5, 7, 4));
        assert_eq!((of("3", 10), of("30", 10), of("0", 10), of("0%", 10), of("100%", 0)), (3, 10, 1, 1, 0));
        for bad in ["", "-1", "101%", "NaN%", "a lot", "1.5"] {
            assert!(bad.parse::<Portion>().is_err(), "{bad}");
        }
        assert_eq!(portion("7%").to_string(), "7%");
    }

    #[test]
    fn a_window_may_pass_midnight() {
        let at = |hour: u64, minute: u64| 20_000 * 86_400 + hour * 3600 + minute * 60;
        let night: Window = "22:00-04:30".parse().unwrap();
        assert!(night.is_open(at(22, 0)) && night.is_open(at(4, 29)) && !night.is_open(at(4, 30)));
        assert!(!night.is_open(at(21, 59)));
        let noon: Window = "12:00-13:00".parse().unwrap();
        assert!(noon.is_open(at(12, 30)) && !noon.is_open(at(11, 59)) && !noon.is_open(at(13, 0)));
        assert_eq!(night.to_string(), "22:00-04:30");
        for bad in ["", "22:00", "24:00-01:00", "10:00-10:00", "1000-1100"] {
            assert!(bad.parse::<Window>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_policy_that_makes_no_sense_is_refused() {
        let broken = |change: fn(&mut RolloutPolicy)| {
            let mut policy = RolloutPolicy::default();
            change(&mut policy);
            policy.check().unwrap_err().what
        };
        RolloutPolicy::default().check().unwrap();
        assert_eq!(broken(|p| p.waves = vec![portion("20%"), portion("10%")]), "rollout.waves");
        assert_eq!(broken(|p| p.judge.alpha = f64::NAN), "rollout.judge.alpha");
        assert_eq!(broken(|p| p.judge.alpha = 0.0), "rollout.judge.alpha");
        assert_eq!(broken(|p| p.judge.max_accuracy_loss = -1.0), "rollout.judge.max_accuracy_loss");
        assert_eq!(broken(|p| p.judge.max_latency_factor = 0.5), "rollout.judge.max_latency_factor");
        assert_eq!(broken(|p| p.judge.max_energy_factor = f64::NAN), "rollout.judge.max_energy_factor");
    }

    #[test]
    fn devices_go_in_the_order_of_the_selectors() {
        let order = vec![Selector("site=lab".parse().unwrap()), Selector("site=north".parse().unwrap())];
        let policy = RolloutPolicy { order, ..RolloutPolicy::default() };
        let rank = |labels: &str| policy.rank(&labels.parse().unwrap());
        assert_eq!((rank("site=lab"), rank("site=north,line=4"), rank("site=south")), (0, 1, 2));
    }
}
