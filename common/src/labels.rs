//! Labels on devices, and selectors over them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{ParseError, caps};

/// Key–value pairs that a device carries, at most [`caps::LABELS`]. Held as the text `key=value,key=value` in the order of
/// the keys, which copies share: there are as many labels as devices, and few that differ.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(Arc<str>);

impl Labels {
    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(other, _)| *other == key).map(|(_, value)| value)
    }

    /// All pairs as `key=value,key=value`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All pairs in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.split(',').filter_map(|pair| pair.split_once('='))
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = ParseError;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, ParseError> {
        if map.len() > caps::LABELS {
            return Err(ParseError::new("labels", &map.len().to_string(), "at most 64 labels"));
        }
        for text in map.iter().flat_map(|(key, value)| [key, value]) {
            if text.is_empty() || text.len() > caps::NAME_BYTES || text.contains(['=', ',']) {
                let shown: String = text.chars().take(40).collect();
                return Err(ParseError::new("label", &shown, "1 to 128 bytes without '=' and ','"));
            }
        }
        let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Ok(Self(pairs.join(",").into()))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Labels {
    type Err = ParseError;

    /// Reads `key=value,key=value`; the empty text is no labels.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut map = BTreeMap::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| ParseError::new("label", pair, "key=value"))?;
            map.insert(key.to_owned(), value.to_owned());
        }
        Self::try_from(map)
    }
}

/// Picks the devices that carry every one of its labels; the empty selector picks all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub Labels);

impl Selector {
    /// Whether `labels` carry every pair of this selector.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// How many pairs are asked for: the more, the more specific.
    pub fn specificity(&self) -> usize {
        self.0.iter().count()
    }

    /// Whether a device can match both selectors while neither is more specific.
    pub fn ties_with(&self, other: &Self) -> bool {
        let agree = |(key, value): (&str, &str)| other.0.get(key).is_none_or(|asked| asked == value);
        self.specificity() == other.specificity() && self.0.iter().all(agree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_pick_by_all_their_labels() {
        let labels: Labels = "site=north,class=small".parse().unwrap();
        let pick = |text: &str| Selector(text.parse().unwrap()).matches(&labels);
        assert_eq!((labels.get("site"), labels.get("sit")), (Some("north"), None));
        assert_eq!(labels.to_string(), "class=small,site=north");
        assert_eq!(Labels::default().iter().count(), 0);
        assert!(pick("") && pick("site=north") && pick("class=small,site=north"));
        assert!(!pick("site=south") && !pick("site=north,line=4"));
        assert!("a".parse::<Labels>().is_err());
    }
}
