//! The journal: reports are stored as they come, many in one record, and taken into their devices' own records now and then,
//! when that costs little a report. What leads from the stored records to what is known is in the journal.
//!
//! Architecture invariant: a device's record and the journal after it give the device as it is known; a report that the
//! record has already is passed over, by its number.

use std::collections::BTreeSet;
use std::ops::Range;

use secateur_common::{DeviceId, Heard, Ledger};

/// Reports that were stored together.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Reports {
    pub(crate) number: u64,
    pub(crate) told: Vec<Told>,
}

/// One of them.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Told {
    pub(crate) device: DeviceId,
    /// What the device was sent on its day till then.
    pub(crate) sent: Ledger,
    pub(crate) heard: Heard,
}

/// What is in the journal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    numbers: Range<u64>,
    reports: usize,
    devices: BTreeSet<DeviceId>,
}

/// Reports of each device, and of all, below which the journal grows on.
const REPORTS_A_DEVICE: usize = 4;
const REPORTS: usize = 4096;

impl Journal {
    /// Whether the next reports go into their devices' records, with all that came before.
    pub(crate) fn is_full(&self) -> bool {
        self.reports >= REPORTS.max(REPORTS_A_DEVICE * self.devices.len())
    }

    /// The number of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.numbers.end
    }

    /// The numbers of the records.
    pub(crate) fn numbers(&self) -> Range<u64> {
        self.numbers.clone()
    }

    /// The devices whose reports are here.
    pub(crate) fn devices(&self) -> impl Iterator<Item = DeviceId> {
        self.devices.iter().copied()
    }

    /// These are here now.
    pub(crate) fn add(&mut self, reports: &Reports) {
        let first = if self.numbers.is_empty() { reports.number } else { self.numbers.start };
        self.numbers = first..reports.number + 1;
        self.reports += reports.told.len();
        self.devices.extend(reports.told.iter().map(|told| told.device));
    }

    /// All are in their devices' records.
    pub(crate) fn clear(&mut self) {
        *self = Self { numbers: self.next()..self.next(), ..Self::default() };
    }
}
