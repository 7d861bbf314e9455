//! The manifest: everything about an update but its coded streams. Written byte by byte as `docs/update-format.md`
//! says; reading leaves no freedom: one form for each manifest, every length checked, streams contiguous.

use secateur_common::{Digest, Generation, VariantId, caps};

use crate::bytes::{Reader, put};
use crate::entry::{Entry, KEPT_RUN, OP, Shape};
use crate::{DecodeError, Part, text};

/// The first bytes of every update.
pub(crate) const MAGIC: [u8; 4] = *b"SCUP";
/// The newest version of the format; it and all before it are read. An update is written in the oldest one, from the
/// second on, that has what it uses.
pub const FORMAT: u8 = 3;
/// A manifest, at most, in bytes.
const MANIFEST_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a checksum: enough against accidents; the target's digest guards against malice.
const CHECK_BYTES: usize = 8;
/// A channel axis that indices are kept of, at most.
pub(crate) const AXIS: usize = 1 << 18;
/// All index sets together, at most, in indices of the base.
pub(crate) const AXES_TOTAL: usize = 1 << 20;

/// What an update is: from what, to what, by which operations, in how many bytes.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    /// The variant that it starts from; none for a full update.
    pub base: Option<VariantId>,
    /// The variant that it makes.
    pub target: VariantId,
    /// The generation of the assignment that it serves.
    pub generation: Generation,
    pub(crate) format: u8,
    pub(crate) skeleton: Option<SkeletonEntry>,
    pub(crate) sets: SetsEntry,
    pub(crate) tensors: Vec<Entry>,
    pub(crate) frames: Vec<[u8; CHECK_BYTES]>,
    header_bytes: usize,
}

/// The carried skeleton and the tensors' names, one text.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct SkeletonEntry {
    pub(crate) skeleton: usize,
    pub(crate) names: usize,
    pub(crate) stored: usize,
}

/// Index sets of gathers: (indices of the base, of them kept), and the bytes of all.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct SetsEntry {
    pub(crate) sizes: Vec<(usize, usize)>,
    pub(crate) stored: usize,
}

impl Manifest {
    pub(crate) fn new(base: Option<VariantId>, target: VariantId, generation: Generation) -> Self {
        Self {
            base,
            target,
            generation,
            format: 2,
            skeleton: None,
            sets: SetsEntry::default(),
            tensors: Vec::new(),
            frames: Vec::new(),
            header_bytes: 0,
        }
    }

    /// Reads the manifest at the start of `bytes`, which may be an update or the beginning of one.
    ///
    /// # Errors
    /// Where it is not all there, corrupt, of another version, over a limit or contradictory.
    pub fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        if reader.array()? != MAGIC {
            return Err(DecodeError::Magic);
        }
        let format = match reader.byte()? {
            format @ 1..=FORMAT => format,
            found => return Err(DecodeError::Version { found }),
        };
        let length = reader.count("manifest", MANIFEST_BYTES)?;
        let body = reader.take(length)?;
        let covered = bytes.len() - reader.0.len();
        if reader.array()? != check(&bytes[..covered]) {
            return Err(DecodeError::Checksum { part: Part::Manifest });
        }
        let mut body = Reader(body);
        let mut manifest = Self::read_body(format, &mut body)?;
        if !body.0.is_empty() {
            return Err(contradiction("the manifest's length"));
        }
        manifest.header_bytes = covered + CHECK_BYTES;
        Ok(manifest)
    }

    fn read_body(format: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = reader.byte()?;
        if flags > 3 || flags == 0 {
            return Err(contradiction("the flags of the manifest"));
        }
        let target = VariantId(Digest::from_bytes(reader.array()?));
        let base = match flags & 1 {
            1 => Some(VariantId(Digest::from_bytes(reader.array()?))),
            _ => None,
        };
        let mut manifest = Self::new(base, target, Generation(reader.number()?));
        manifest.format = format;
        if flags & 2 != 0 {
            let skeleton = reader.count("skeleton", caps::SKELETON_BYTES)?;
            let names = reader.count("name table", caps::SKELETON_BYTES)?;
            let stored = reader.count("skeleton stream", caps::UPDATE_BYTES)?;
            manifest.skeleton = Some(SkeletonEntry { skeleton, names, stored });
        }
        let length = reader.count("tensor table", MANIFEST_BYTES)?;
        let stored = reader.count("tensor table", MANIFEST_BYTES)?;
        let table = text::decode(&[], reader.take(stored)?, length)?;
        manifest.read_table(&mut Reader(&table))?;
        if manifest.refits() != (format > 2) {
            return Err(contradiction("the version of the format"));
        }
        let payload = manifest.payload_bytes();
        if payload > caps::UPDATE_BYTES {
            return Err(DecodeError::TooLarge { what: "payload", limit: caps::UPDATE_BYTES });
        }
        manifest.frames =
            (0..payload.div_ceil(caps::FRAME_BYTES)).map(|_| reader.array()).collect::<Result<_, _>>()?;
        Ok(manifest)
    }

    fn read_table(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        self.sets = read_sets(reader)?;
        self.tensors = self.read_tensors(reader)?;
        if reader.0.is_empty() { Ok(()) } else { Err(contradiction("the length of the tensor table")) }
    }

    fn read_tensors(&self, reader: &mut Reader<'_>) -> Result<Vec<Entry>, DecodeError> {
        let count = reader.count("number of tensors", caps::GRAPH_TENSORS)?;
        let mut tensors: Vec<Entry> = Vec::new();
        let mut decoded = 0usize;
        while tensors.len() < count {
            let head = reader.byte()?;
            if head & OP == KEPT_RUN {
                let run = reader.count("run of kept tensors", count - tensors.len())?;
                let follows_run = tensors.last().is_some_and(|last| *last == Entry::kept());
                if head != KEPT_RUN || run == 0 || follows_run || self.base.is_none() {
                    return Err(contradiction("a run of kept tensors"));
                }
                tensors.extend((0..run).map(|_| Entry::kept()));
                continue;
            }
            let entry = Entry::read(head, reader, (self.format, self.base.is_some()), self.sets.sizes.len())?;
            decoded = decoded.saturating_add(entry.elements.saturating_mul(entry.element_bytes()));
            if decoded > caps::MODEL_BYTES {
                return Err(DecodeError::TooLarge { what: "decoded size", limit: caps::MODEL_BYTES });
            }
            tensors.push(entry);
        }
        Ok(tensors)
    }

    /// The bytes of the header; `self.frames` must be those of the payload.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut body = vec![u8::from(self.base.is_some()) | u8::from(self.skeleton.is_some()) << 1];
        body.extend_from_slice(self.target.0.as_bytes());
        if let Some(base) = self.base {
            body.extend_from_slice(base.0.as_bytes());
        }
        put(&mut body, self.generation.0);
        if let Some(entry) = self.skeleton {
            for value in [entry.skeleton, entry.names, entry.stored] {
                put(&mut body, value as u64);
            }
        }
        let table = self.table();
        let coded = text::encode(&[], &table);
        put(&mut body, table.len() as u64);
        put(&mut body, coded.len() as u64);
        body.extend_from_slice(&coded);
        self.frames.iter().for_each(|frame| body.extend_from_slice(frame));

        let mut bytes = MAGIC.to_vec();
        bytes.push(if self.refits() { self.format.max(3) } else { self.format });
        put(&mut bytes, body.len() as u64);
        bytes.extend_from_slice(&body);
        let check = check(&bytes);
        bytes.extend_from_slice(&check);
        bytes
    }

    /// The index sets' sizes and the tensors' entries.
    fn table(&self) -> Vec<u8> {
        let mut table = Vec::new();
        put(&mut table, self.sets.sizes.len() as u64);
        for &(base, kept) in &self.sets.sizes {
            put(&mut table, base as u64);
            put(&mut table, kept as u64);
        }
        if !self.sets.sizes.is_empty() {
            put(&mut table, self.sets.stored as u64);
        }
        put(&mut table, self.tensors.len() as u64);
        for run in self.tensors.chunk_by(|a, b| *a == Entry::kept() && *b == Entry::kept()) {
            if run[0] == Entry::kept() {
                table.push(KEPT_RUN);
                put(&mut table, run.len() as u64);
            } else {
                run[0].write(&mut table);
            }
        }
        table
    }

    /// Whether it has what only the third version of the format has.
    fn refits(&self) -> bool {
        self.tensors.iter().any(|entry| matches!(entry.shape, Shape::Refitted(..)))
    }

    /// Bytes before the first frame.
    pub fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    /// Bytes of all frames; each but the last has [`caps::FRAME_BYTES`].
    pub fn payload_bytes(&self) -> usize {
        let skeleton = self.skeleton.map_or(0, |entry| entry.stored);
        let tensors = self.tensors.iter().map(Entry::payload_bytes);
        tensors.fold(skeleton.saturating_add(self.sets.stored), usize::saturating_add)
    }

    /// Bytes of the whole update.
    pub fn total_bytes(&self) -> usize {
        self.header_bytes.saturating_add(self.payload_bytes())
    }

    /// The number of frames.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Checks frame `index` as it arrives.
    ///
    /// # Errors
    /// Where there is no such frame, or it has another length or checksum.
    pub fn check_frame(&self, index: usize, frame: &[u8]) -> Result<(), DecodeError> {
        let expected = self.frames.get(index).ok_or(contradiction("the number of frames"))?;
        let rest = self.payload_bytes() - index * caps::FRAME_BYTES;
        if frame.len() != rest.min(caps::FRAME_BYTES) || check(frame) != *expected {
            return Err(DecodeError::Checksum { part: Part::Frame(index) });
        }
        Ok(())
    }
}

fn read_sets(reader: &mut Reader<'_>) -> Result<SetsEntry, DecodeError> {
    let count = reader.count("number of index sets", caps::GRAPH_TENSORS)?;
    let mut sizes = Vec::new();
    let mut total = 0;
    for _ in 0..count {
        let base = reader.count("axis", AXIS)?;
        total += base;
        if total > AXES_TOTAL {
            return Err(DecodeError::TooLarge { what: "total of axes", limit: AXES_TOTAL });
        }
        sizes.push((base, reader.count("index set", base)?));
    }
    let stored = if count == 0 { 0 } else { reader.count("index stream", caps::UPDATE_BYTES)? };
    Ok(SetsEntry { sizes, stored })
}

pub(crate) fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&Digest::of(bytes).as_bytes()[..CHECK_BYTES]);
    check
}

pub(crate) fn contradiction(what: &'static str) -> DecodeError {
    DecodeError::Contradiction { what }
}
