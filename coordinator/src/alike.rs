//! Values of which many are equal, held once: devices of one kind are assigned the same.

use std::collections::VecDeque;

/// Those that were seen lately.
#[derive(Debug)]
pub(crate) struct Alike<T>(VecDeque<T>);

/// Values kept; who is unlike the last ones holds its own.
const KEPT: usize = 16;

impl<T> Default for Alike<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Clone + PartialEq> Alike<T> {
    /// `value`, or the equal one that was seen before. Copies of a `T` share what they hold.
    pub(crate) fn one(&mut self, value: T) -> T {
        if let Some(before) = self.0.iter().find(|before| **before == value) {
            return before.clone();
        }
        self.0.truncate(KEPT - 1);
        self.0.push_front(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn equal_values_are_one() {
        let mut alike = Alike::default();
        let [a, b, c] = ["x", "y", "x"].map(|text| alike.one(Arc::new(text.to_owned())));
        assert!(Arc::ptr_eq(&a, &c) && !Arc::ptr_eq(&a, &b));
        (0..KEPT).for_each(|n| drop(alike.one(Arc::new(n.to_string()))));
        assert!(!Arc::ptr_eq(&a, &alike.one(a.as_str().to_owned().into())), "it was long ago");
        assert_eq!(alike.0.len(), KEPT);
    }
}
