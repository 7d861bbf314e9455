//! The day's bytes as the device counts them, and whether its cap lets it dial, ask, or stay.
//!
//! Architecture invariant: what is on disk is never less than what came: bytes are written down before they are asked for.

use secateur_common::{Cause, Ledger, ledger};
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, CacheError};

/// Bytes that are written down ahead of those that come unasked, under a cap and without one.
const AHEAD: [u64; 2] = [1024, 64 * 1024];

/// What is kept over a restart.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The day's bytes, those that were expected included.
    pub ledger: Ledger,
    /// The cap, as the coordinator told it last.
    pub cap: Option<u64>,
}

/// Counts, for one agent.
pub(crate) struct Meter {
    ledger: Ledger,
    cap: Option<u64>,
    /// What is on disk.
    kept: Kept,
    /// Bytes of the present connection that were counted.
    seen: u64,
    /// Bytes of an update that were asked for and are to come.
    expected: u64,
}

impl Meter {
    pub(crate) fn open(cache: &Cache) -> Result<Self, CacheError> {
        let kept = cache.meter()?.unwrap_or_default();
        Ok(Self { ledger: kept.ledger, cap: kept.cap, kept, seen: 0, expected: 0 })
    }

    /// The day's bytes so far.
    pub(crate) fn today(&self) -> Ledger {
        self.ledger
    }

    /// A connection begins: its bytes are counted from 0, and it brings nothing that was asked for before.
    pub(crate) fn connected(&mut self) {
        (self.seen, self.expected) = (0, 0);
    }

    /// The coordinator told the cap.
    pub(crate) fn limit(&mut self, cache: &Cache, cap: Option<u64>) -> Result<(), CacheError> {
        self.cap = cap;
        self.keep(cache)
    }

    /// Counts what the connection, which received `total` bytes so far, brought since the last time: up to `bytes` of it for
    /// `cause`, the rest as control.
    pub(crate) fn count(
        &mut self,
        cache: &Cache,
        (unix_s, total): (u64, u64),
        (cause, bytes): (Cause, u64),
    ) -> Result<(), CacheError> {
        self.ledger.look(unix_s);
        let came = total.saturating_sub(self.seen);
        self.seen = self.seen.max(total);
        self.ledger.add(Cause::Control, came);
        // Bytes come before the message that they make is seen: some of it was counted as control.
        let moved = bytes.min(self.ledger.control);
        self.ledger.refund(Cause::Control, moved);
        self.ledger.add(cause, moved);
        if cause == Cause::Update {
            self.expected = self.expected.saturating_sub(bytes);
        }
        let ahead = self.kept.ledger.day != self.ledger.day || self.kept.ledger.total() < self.ledger.total();
        if ahead { self.keep(cache) } else { Ok(()) }
    }

    /// The update bytes that may be asked for now, which are written down as if they had come; none where there is no cap.
    pub(crate) fn grant(&mut self, cache: &Cache, unix_s: u64) -> Result<Option<u64>, CacheError> {
        self.ledger.look(unix_s);
        let grant = self.ledger.grant(self.cap);
        if let Some(bytes) = grant.filter(|&bytes| bytes > 0) {
            self.expected = bytes + bytes / ledger::PIECE_BYTES * ledger::PIECE_FRAMING;
            self.keep(cache)?;
        }
        Ok(grant)
    }

    /// All that was asked for came.
    pub(crate) fn arrived(&mut self) {
        self.expected = 0;
    }

    /// Whether the cap leaves enough for a session to begin.
    pub(crate) fn may_dial(&mut self, unix_s: u64) -> bool {
        self.ledger.look(unix_s);
        self.ledger.left(self.cap) >= ledger::SESSION_BYTES
    }

    /// Whether the cap lets the session go on.
    pub(crate) fn may_stay(&self) -> bool {
        self.ledger.left(self.cap) >= ledger::LAST_BYTES
    }

    fn keep(&mut self, cache: &Cache) -> Result<(), CacheError> {
        let mut ledger = self.ledger;
        ledger.add(Cause::Update, self.expected);
        ledger.add(Cause::Control, AHEAD[usize::from(self.cap.is_none())]);
        self.kept = Kept { ledger, cap: self.cap };
        cache.keep_meter(&self.kept)
    }
}
