//! What can be wrong with an update, or with the graphs it is made from.

use secateur_common::VariantId;
use secateur_model::TensorError;

use crate::base::AccessError;

/// Why bytes are no update.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Another kind of file.
    #[error("not an update: the first four bytes are not `SCUP`")]
    Magic,
    /// Made by a later version of the format.
    #[error("update format {found} is not supported, only up to {}: update this program", crate::FORMAT)]
    Version {
        /// The version that was found.
        found: u8,
    },
    /// The bytes end too early.
    #[error("the update is truncated")]
    Truncated,
    /// There are more bytes than the manifest tells of.
    #[error("{extra} bytes follow the end of the update")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A checksum does not hold.
    #[error("the update is corrupt: the checksum of {part} does not hold")]
    Checksum {
        /// Of what.
        part: Part,
    },
    /// A number is not in its shortest form, or too long.
    #[error("the update is malformed: a number is not in its shortest form")]
    Number,
    /// A length is over its limit.
    #[error("the update has too large a {what}: at most {limit}")]
    TooLarge {
        /// The kind of length.
        what: &'static str,
        /// Its limit.
        limit: usize,
    },
    /// Parts of the manifest contradict each other or the base.
    #[error("the update contradicts itself: {what}")]
    Contradiction {
        /// In what.
        what: &'static str,
    },
    /// An entropy-coded stream does not end where it should.
    #[error("the update is corrupt: a coded stream does not end where it should")]
    StreamEnd,
}

/// A part of an update that has a checksum of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The manifest.
    Manifest,
    /// A frame, by index.
    Frame(usize),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manifest => f.write_str("the manifest"),
            Self::Frame(index) => write!(f, "frame {index}"),
        }
    }
}

/// Why an update could not be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The bytes are no update, or not a sound one.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A delta needs its base.
    #[error("the update turns variant {expected} into another; no base was given: fetch a full update")]
    BaseMissing {
        /// The base it needs.
        expected: VariantId,
    },
    /// A delta for another base.
    #[error("the update is for base {expected}, not for {found}: fetch a full update")]
    WrongBase {
        /// The base it needs.
        expected: VariantId,
        /// The base that was given.
        found: VariantId,
    },
    /// A decoded tensor is none.
    #[error("tensor `{name}` of the update is unsound")]
    Tensor {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: TensorError,
    },
    /// The base cannot be read.
    #[error("the base cannot be read")]
    Base(#[source] AccessError),
    /// What was decoded cannot be put where it should go.
    #[error("the decoded variant cannot be stored")]
    Sink(#[source] AccessError),
    /// Skeleton and tensors make no graph.
    #[error("the update's skeleton and tensors make no graph")]
    Graph(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The result is not what the manifest promises.
    #[error("the result is variant {found}, not {expected} as promised: discard it")]
    WrongResult {
        /// What was promised.
        expected: VariantId,
        /// What came out.
        found: VariantId,
    },
}

/// Why no update could be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The target is over a limit that every decoder enforces.
    #[error("the model has too large a {what}: at most {limit}")]
    TooLarge {
        /// The kind of length.
        what: &'static str,
        /// Its limit.
        limit: usize,
    },
}

/// Why a variant could not be brought into its stored form.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It is over a limit.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// It cannot be read.
    #[error("the variant cannot be read")]
    Read(#[source] AccessError),
    /// A frame cannot be put where it should go.
    #[error("the variant cannot be stored")]
    Write(#[source] AccessError),
}
