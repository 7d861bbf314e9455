//! What an update carries besides tensors: the skeleton and the table of the tensors' names, as one text. Where the base
//! has the same text it is not carried; where it has another one (a depthwise convolution's number of groups follows its
//! channels), that one is what the new text is predicted from.

use secateur_common::caps;

use crate::DecodeError;
use crate::base::Base;
use crate::bytes::{Reader, put};
use crate::manifest::contradiction;

/// The two parts of the text.
#[derive(Clone, PartialEq)]
pub(crate) struct Text {
    pub(crate) skeleton: Vec<u8>,
    pub(crate) names: Vec<u8>,
}

impl Text {
    pub(crate) fn of(base: &dyn Base) -> Self {
        let mut names = Vec::new();
        for name in base.names() {
            put(&mut names, name.len() as u64);
            names.extend_from_slice(name.as_bytes());
        }
        Self { skeleton: base.skeleton(), names }
    }

    pub(crate) fn joined(&self) -> Vec<u8> {
        [self.skeleton.as_slice(), &self.names].concat()
    }

    /// The text with its skeleton's length given.
    pub(crate) fn split(mut joined: Vec<u8>, skeleton: usize) -> Self {
        let names = joined.split_off(skeleton.min(joined.len()));
        Self { skeleton: joined, names }
    }
}

/// The names of a table: each has its length before it, and they ascend.
pub(crate) struct Names {
    table: Vec<u8>,
    next: usize,
    last: std::ops::Range<usize>,
}

impl Names {
    pub(crate) fn new(table: Vec<u8>) -> Self {
        Self { table, next: 0, last: 0..0 }
    }

    /// The next name; none at the end.
    ///
    /// # Errors
    /// Where it does not follow the one before, is too long or no UTF-8.
    pub(crate) fn next(&mut self) -> Result<Option<String>, DecodeError> {
        let mut reader = Reader(&self.table[self.next..]);
        if reader.0.is_empty() {
            return Ok(None);
        }
        let length = reader.count("name", caps::GRAPH_NAME_BYTES)?;
        let name = std::str::from_utf8(reader.take(length)?);
        let name = name.map_err(|_| contradiction("a name is not UTF-8"))?.to_owned();
        if self.next > 0 && self.table[self.last.clone()] >= *name.as_bytes() {
            return Err(contradiction("the order of names"));
        }
        self.next = self.table.len() - reader.0.len();
        self.last = self.next - length..self.next;
        Ok(Some(name))
    }
}
