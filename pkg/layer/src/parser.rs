//! The push parser: bytes of a tar in, a [`LayerIndex`] out. It reads headers and skips data; it never asks for bytes and never goes back.

use crate::draft::{Draft, Extensions, MapRest};
use crate::error::{Extension, LayerError, Result, SparseProblem};
use crate::header::{self, HEADER, Header};
use crate::index::{IndexBuilder, LayerIndex};
use crate::limits::Limits;
use crate::number;
use crate::pax::{Records, Scope};

/// Reads one archive in pieces of any size.
///
/// It reads what Go's archive/tar reads (the other runtimes' parser), in the same way, and refuses what readers disagree about. After the end of
/// the archive it takes any bytes: they belong to the layer's digest, not to its content.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    state: State,
    /// Bytes taken so far.
    position: u64,
    /// A header that came in pieces.
    block: Vec<u8>,
    globals: Records,
    before: Extensions,
    /// Bytes of headers and maps for the next entry.
    metadata: u64,
    index: IndexBuilder,
}

/// What the next byte belongs to.
#[derive(Debug)]
enum State {
    /// A header, or the first zero block of the end.
    Header,
    /// The contents of an extended header.
    Extension { kind: Extension, at: u64, left: u64, contents: Vec<u8> },
    /// A block of an old GNU sparse map.
    MapBlocks(Box<Draft>),
    /// A block of a PAX 1.0 sparse map.
    MapText(Box<Draft>, MapText),
    /// Data of a file, and padding at its end: nothing we look at.
    Skip { left: u64, padding: u64 },
    /// The second zero block.
    SecondZeroBlock,
    /// After the end.
    End,
    /// An error was returned.
    Refused,
}

/// A PAX 1.0 sparse map as far as it came: lines of decimal numbers, the first of them the number of runs.
#[derive(Debug, Default)]
struct MapText {
    numbers: Vec<u64>,
    line: Vec<u8>,
    /// Bytes of its blocks so far.
    length: u64,
}

// === impl Parser ===

impl Parser {
    /// A parser at the start of an archive.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Header,
            position: 0,
            block: Vec::with_capacity(HEADER),
            globals: Records::default(),
            before: Extensions::default(),
            metadata: 0,
            index: IndexBuilder::default(),
        }
    }

    /// Takes the next bytes. Data of files costs nothing however long it is; at most [`Limits::max_metadata_bytes`] are held beside the index.
    ///
    /// # Errors
    /// What is wrong with the archive. After an error the parser takes nothing more.
    pub fn feed(&mut self, mut input: &[u8]) -> Result<()> {
        while !input.is_empty() {
            let result = self.step(input);
            match result {
                Ok(rest) => input = rest,
                Err(error) => {
                    self.state = State::Refused;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The index, if the archive is complete: it ends with zero blocks, between two entries, or in the padding of the last one's data.
    pub fn finish(self) -> Result<LayerIndex> {
        let at = self.position;
        match self.state {
            State::Header | State::SecondZeroBlock if !self.block.is_empty() => Err(LayerError::Truncated { at }),
            State::Header if at == 0 => Err(LayerError::Empty),
            State::Header if self.before.is_some() => Err(LayerError::Dangling { at }),
            State::Header | State::SecondZeroBlock | State::End => Ok(self.index.finish(at)),
            // umoci 0.4 writes such archives, and Go's reader, on which the container runtimes stand, takes them.
            State::Skip { left, padding } if left <= padding && !self.before.is_some() => Ok(self.index.finish(at)),
            State::Extension { .. } | State::MapBlocks(_) | State::MapText(..) | State::Skip { .. } => {
                Err(LayerError::Truncated { at })
            }
            State::Refused => Err(LayerError::AlreadyRefused),
        }
    }

    /// Takes some of the input and returns the rest.
    fn step<'i>(&mut self, input: &'i [u8]) -> Result<&'i [u8]> {
        match &mut self.state {
            State::Refused => Err(LayerError::AlreadyRefused),
            State::End => Ok(self.take(input, u64::MAX).1),
            State::Skip { left, padding } => {
                let (wanted, padding) = (*left, *padding);
                let (taken, rest) = self.take(input, wanted);
                self.skip(wanted - length(taken), padding);
                Ok(rest)
            }
            State::Extension { left, .. } => {
                let wanted = *left;
                let (taken, rest) = self.take(input, wanted);
                self.extend(taken)?;
                Ok(rest)
            }
            State::Header | State::MapBlocks(_) | State::MapText(..) | State::SecondZeroBlock => self.step_block(input),
        }
    }

    /// Collects a block, or uses it where it lies.
    fn step_block<'i>(&mut self, input: &'i [u8]) -> Result<&'i [u8]> {
        let wanted = length_of_block() - length(&self.block);
        let (taken, rest) = self.take(input, wanted);
        if taken.len() == HEADER {
            self.read_block(taken)?;
            return Ok(rest);
        }
        self.block.extend_from_slice(taken);
        if self.block.len() == HEADER {
            let block = std::mem::take(&mut self.block);
            self.read_block(&block)?;
        }
        Ok(rest)
    }

    fn read_block(&mut self, block: &[u8]) -> Result<()> {
        let is_zero = block.iter().all(|byte| *byte == 0);
        let at = self.position - length_of_block();
        match std::mem::replace(&mut self.state, State::Header) {
            State::SecondZeroBlock if is_zero => self.state = State::End,
            State::SecondZeroBlock => return Err(LayerError::LoneZeroBlock { at }),
            State::MapBlocks(draft) => return self.read_map_block(draft, block),
            State::MapText(draft, text) => return self.read_map_text(draft, text, block),
            State::Header if !is_zero => {
                let header = Header::new(block).ok_or(LayerError::Checksum { at })?;
                return self.read_header(header, at);
            }
            State::Header if self.before.is_some() => return Err(LayerError::Dangling { at }),
            State::Header => self.state = State::SecondZeroBlock,
            // These take bytes, not blocks.
            State::Extension { .. } | State::Skip { .. } | State::End | State::Refused => {
                return Err(LayerError::AlreadyRefused);
            }
        }
        Ok(())
    }

    fn read_header(&mut self, header: Header<'_>, at: u64) -> Result<()> {
        if let Some(kind) = Extension::of(header.flag()) {
            return self.begin_extension(kind, header, at);
        }
        let draft = Draft::new(header, std::mem::take(&mut self.before), &self.globals, at)?;
        self.continue_map(Box::new(draft))
    }

    // Extended headers.

    fn begin_extension(&mut self, kind: Extension, header: Header<'_>, at: u64) -> Result<()> {
        let repeated = match kind {
            Extension::Pax => self.before.pax.is_some(),
            Extension::LongName => self.before.long_name.is_some(),
            Extension::LongLink => self.before.long_link.is_some(),
            Extension::Global => false,
        };
        // Go drops a header that a global one follows, others keep it.
        if kind == Extension::Global && self.before.is_some() {
            return Err(LayerError::Dangling { at });
        }
        if repeated {
            return Err(LayerError::Repeated { at, extension: kind });
        }
        let size = header.size().ok_or(LayerError::Number { at, field: "size" })?;
        self.spend(size, at)?;
        self.state = State::Extension { kind, at, left: size, contents: Vec::new() };
        if size == 0 { self.extend(&[]) } else { Ok(()) }
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<()> {
        let State::Extension { kind, at, left, contents } = &mut self.state else { return Ok(()) };
        contents.extend_from_slice(bytes);
        *left -= length(bytes);
        if *left > 0 {
            return Ok(());
        }
        let (kind, at, contents) = (*kind, *at, std::mem::take(contents));
        let padding = padding(length(&contents));
        self.skip(padding, padding);
        self.apply_extension(kind, contents, at)
    }

    fn apply_extension(&mut self, kind: Extension, mut contents: Vec<u8>, at: u64) -> Result<()> {
        match kind {
            Extension::Pax => {
                let mut records = self.globals.clone();
                records.apply(&contents, Scope::OneEntry, at)?;
                self.before.pax = Some(records);
            }
            Extension::Global => {
                self.globals.apply(&contents, Scope::AllLater, at)?;
                self.metadata = 0;
            }
            Extension::LongName | Extension::LongLink => {
                let end = contents.iter().position(|byte| *byte == 0).unwrap_or(contents.len());
                contents.truncate(end);
                let slot =
                    if kind == Extension::LongName { &mut self.before.long_name } else { &mut self.before.long_link };
                *slot = Some(contents);
            }
        }
        Ok(())
    }

    /// Counts bytes held for the next entry against the limit.
    fn spend(&mut self, bytes: u64, at: u64) -> Result<()> {
        let limit = self.limits.max_metadata_bytes;
        self.metadata = self.metadata.saturating_add(bytes);
        if self.metadata > limit { Err(LayerError::MetadataTooLarge { at, limit }) } else { Ok(()) }
    }

    // Sparse maps.

    /// Reads on in the entry's sparse map, or finishes the entry.
    fn continue_map(&mut self, draft: Box<Draft>) -> Result<()> {
        match draft.map_rest() {
            MapRest::Complete => return self.finish_entry(*draft, 0),
            MapRest::Blocks => self.state = State::MapBlocks(draft),
            MapRest::Text => self.state = State::MapText(draft, MapText::default()),
        }
        Ok(())
    }

    fn read_map_block(&mut self, mut draft: Box<Draft>, block: &[u8]) -> Result<()> {
        self.spend(length_of_block(), draft.at())?;
        let runs = header::extension_runs(block).ok_or_else(|| draft.refuse(SparseProblem::Malformed))?;
        if let Some(sparse) = draft.sparse_mut() {
            sparse.runs.extend(runs.runs);
            sparse.rest = if runs.more { MapRest::Blocks } else { MapRest::Complete };
        }
        self.continue_map(draft)
    }

    fn read_map_text(&mut self, mut draft: Box<Draft>, mut text: MapText, block: &[u8]) -> Result<()> {
        self.spend(length_of_block(), draft.at())?;
        let Some(complete) = text.read(block) else { return Err(draft.refuse(SparseProblem::Malformed)) };
        if text.length > draft.stored() {
            return Err(draft.refuse(SparseProblem::Malformed));
        }
        if !complete {
            self.state = State::MapText(draft, text);
            return Ok(());
        }
        if let Some(sparse) = draft.sparse_mut() {
            sparse.runs = text.runs();
        }
        self.finish_entry(*draft, text.length)
    }

    /// Adds the entry and skips its data, of which `map` bytes were read already.
    fn finish_entry(&mut self, draft: Draft, map: u64) -> Result<()> {
        let at = draft.at();
        let stored = draft.stored() - map;
        let padded = stored.checked_add(padding(stored));
        let end = padded.and_then(|padded| self.position.checked_add(padded));
        let (Some(padded), Some(_)) = (padded, end) else { return Err(LayerError::Number { at, field: "size" }) };
        if let Some(entry) = draft.finish((self.position, stored))? {
            self.index.push(&entry, &self.limits)?;
        }
        self.metadata = 0;
        self.skip(padded, padding(stored));
        Ok(())
    }

    fn skip(&mut self, left: u64, padding: u64) {
        self.state = if left == 0 { State::Header } else { State::Skip { left, padding } };
    }

    /// Splits off up to `wanted` bytes and counts them.
    fn take<'i>(&mut self, input: &'i [u8], wanted: u64) -> (&'i [u8], &'i [u8]) {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(input.len());
        let (taken, rest) = input.split_at(wanted);
        self.position = self.position.saturating_add(length(taken));
        (taken, rest)
    }
}

// === impl Extension ===

impl Extension {
    fn of(flag: u8) -> Option<Self> {
        match flag {
            b'x' => Some(Self::Pax),
            b'g' => Some(Self::Global),
            b'L' => Some(Self::LongName),
            b'K' => Some(Self::LongLink),
            _ => None,
        }
    }
}

// === impl Extensions ===

impl Extensions {
    fn is_some(&self) -> bool {
        self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some()
    }
}

// === impl MapText ===

impl MapText {
    /// Reads a block; whether the map is complete with it, or `None` if it is no map. Bytes after its last line are padding.
    fn read(&mut self, block: &[u8]) -> Option<bool> {
        self.length += length(block);
        for byte in block {
            if self.is_complete() {
                break;
            }
            if *byte == b'\n' {
                self.numbers.push(number::decimal(&self.line)?);
                self.line.clear();
                continue;
            }
            self.line.push(*byte);
            // u64::MAX has twenty digits.
            if self.line.len() > 20 {
                return None;
            }
        }
        Some(self.is_complete())
    }

    fn is_complete(&self) -> bool {
        let Some((count, rest)) = self.numbers.split_first() else { return false };
        count.checked_mul(2).is_some_and(|wanted| length(rest) == wanted)
    }

    fn runs(&self) -> Vec<(u64, u64)> {
        let numbers = self.numbers.get(1..).unwrap_or_default();
        numbers.as_chunks::<2>().0.iter().map(|[offset, length]| (*offset, *length)).collect()
    }
}

fn length<T>(slice: &[T]) -> u64 {
    // usize is at most 64 bits wide on every target.
    u64::try_from(slice.len()).unwrap_or(u64::MAX)
}

fn length_of_block() -> u64 {
    crate::entry::BLOCK
}

/// Bytes from the end of `stored` bytes to the next block.
fn padding(stored: u64) -> u64 {
    (crate::entry::BLOCK - stored % crate::entry::BLOCK) % crate::entry::BLOCK
}

#[cfg(test)]
mod tests;
