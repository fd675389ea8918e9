//! Which page is read next, and how far each segment is: bookkeeping without I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use super::counts::Tally;
use super::segment_row::{At, MAX_KEPT, SegmentRow};
use crate::source::Cursor;

/// How many pages of a segment may be done, or under way, behind one that is not done.
const FAR_AHEAD: usize = 256;

/// A page to be read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask {
    pub(crate) segment: u32,
    pub(crate) after: Option<Cursor>,
}

/// A checkpoint to be saved.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Save {
    pub(crate) segment: u32,
    pub(crate) row: SegmentRow,
    pub(crate) over: Option<u64>,
}

/// The effect of a written page.
#[derive(Debug, PartialEq)]
pub(crate) enum Took {
    /// Nothing: its segment was left, or is read again from an earlier page.
    Nothing,
    /// The page is done; holds what is to be saved, if anything.
    Page(Option<Box<Save>>),
}

/// What follows a save.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Rest,
    /// More was done meanwhile, and has to be saved.
    Save(Box<Save>),
    /// The segment is done, and its row says so.
    Done,
}

/// The segments of one process.
///
/// A segment is open from the request of its first page until its row says that it is done.
/// Segments that an earlier attempt had begun come first: what it counted after its last checkpoint
/// has to be recognised, and markers expire. After that, a free worker prefers an open segment that
/// is not being read. So there are no more open segments than workers, apart from those that only
/// wait to be written.
#[derive(Debug)]
pub(crate) struct Segments {
    /// Segments that an earlier attempt had begun: segment, row and version.
    begun: VecDeque<(u32, SegmentRow, u64)>,
    fresh: Range<u32>,
    /// Segments that earlier attempts had begun or done.
    known: BTreeSet<u32>,
    open: BTreeMap<u32, Open>,
    /// Segments that another process has.
    left: BTreeSet<u32>,
    done: u32,
    of: u32,
}

#[derive(Debug, Default)]
struct Open {
    /// Where the next page to be read begins.
    after: Option<Cursor>,
    reading: bool,
    /// Whether the page that is being read will be ignored.
    stale: bool,
    ended: bool,
    /// The number of the page that is read next.
    next: u64,
    /// The pages read, from the first one that is not done.
    pages: VecDeque<PageRead>,
    /// How far all pages are done; `None` if the first is not.
    row: Option<SegmentRow>,
    tally: Tally,
    version: Option<u64>,
    /// The tally of the save that is under way.
    saving: Option<Tally>,
    /// The tally of pages done since.
    unsaved: Option<Tally>,
}

#[derive(Debug)]
struct PageRead {
    number: u64,
    begin: Option<Cursor>,
    end: At,
    tally: Option<Tally>,
}

impl Open {
    fn may_read(&self) -> bool {
        !self.reading && !self.ended && self.pages.len() < FAR_AHEAD
    }

    /// Whether all of it is done.
    fn at_end(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.at == At::End)
    }

    fn save(&mut self, segment: u32) -> Option<Save> {
        if self.saving.is_some() {
            return None;
        }
        self.saving = Some(self.unsaved.take()?);
        Some(Save {
            segment,
            row: self.row.clone()?,
            over: self.version,
        })
    }
}

impl Segments {
    /// The segments of `range`, from where their rows say.
    pub(crate) fn new(range: Range<u32>, found: BTreeMap<u32, (SegmentRow, u64)>) -> Self {
        let of = range.end.saturating_sub(range.start);
        let known = found.keys().copied().collect::<BTreeSet<_>>();
        let found = found.into_iter();
        let begun: VecDeque<_> = found
            .filter(|(_, (row, _))| row.at != At::End)
            .map(|(segment, (row, version))| (segment, row, version))
            .collect();
        Self {
            done: u32::try_from(known.len().saturating_sub(begun.len())).unwrap_or(u32::MAX),
            of,
            begun,
            fresh: range,
            known,
            open: BTreeMap::new(),
            left: BTreeSet::new(),
        }
    }

    pub(crate) fn done(&self) -> u32 {
        self.done
    }

    /// How many segments are completely written, saved or not.
    pub(crate) fn written_out(&self) -> u32 {
        let open = self.open.values().filter(|open| open.at_end());
        self.done + u32::try_from(open.count() + self.left.len()).unwrap_or(u32::MAX)
    }

    /// The segments that another process has.
    pub(crate) fn left(&self) -> &BTreeSet<u32> {
        &self.left
    }

    pub(crate) fn of(&self) -> u32 {
        self.of
    }

    /// Whether every segment is done that was not left to another process.
    pub(crate) fn all_done(&self) -> bool {
        u32::try_from(self.left.len()).is_ok_and(|left| self.done + left == self.of)
    }

    /// Whether there may be a page to be read.
    pub(crate) fn may_read(&self) -> bool {
        !self.begun.is_empty() || !self.fresh.is_empty() || self.open.values().any(Open::may_read)
    }

    /// Takes the page to read next; `None` if there is none before another page was read or
    /// written.
    pub(crate) fn next(&mut self) -> Option<Ask> {
        if let Some((segment, row, version)) = self.begun.pop_front() {
            let after = match row.at {
                At::Cursor(cursor) => Some(cursor),
                At::End => None,
            };
            return Some(self.open(
                segment,
                Open {
                    after,
                    tally: row.tally,
                    version: Some(version),
                    ..Open::default()
                },
            ));
        }
        let idle = self.open.iter_mut().filter(|(_, open)| open.may_read());
        if let Some((segment, open)) = idle.min_by_key(|(_, open)| open.pages.len()) {
            open.reading = true;
            return Some(Ask {
                segment: *segment,
                after: open.after.clone(),
            });
        }
        let known = &self.known;
        let segment = self.fresh.find(|segment| !known.contains(segment))?;
        Some(self.open(segment, Open::default()))
    }

    fn open(&mut self, segment: u32, open: Open) -> Ask {
        let after = open.after.clone();
        let reading = true;
        self.open.insert(segment, Open { reading, ..open });
        Ask { segment, after }
    }

    /// A page was read, and ends where `next` says. Returns its number in the segment; `None` if
    /// the page is not needed any more.
    pub(crate) fn read(&mut self, segment: u32, next: Option<Cursor>) -> Option<u64> {
        let open = self.open.get_mut(&segment)?;
        open.reading = false;
        if std::mem::take(&mut open.stale) {
            return None;
        }
        let number = open.next;
        open.next += 1;
        open.ended = next.is_none();
        let begin = std::mem::replace(&mut open.after, next.clone());
        open.pages.push_back(PageRead {
            number,
            begin,
            end: next.map_or(At::End, At::Cursor),
            tally: None,
        });
        Some(number)
    }

    /// A page was not read, and has to be requested again.
    pub(crate) fn unread(&mut self, segment: u32) {
        if let Some(open) = self.open.get_mut(&segment) {
            (open.reading, open.stale) = (false, false);
        }
    }

    /// A page was not written: the segment is read again from there on. The page may end elsewhere
    /// then, so the pages after it are read again as well. Returns the tally of those that were
    /// done.
    pub(crate) fn again(&mut self, segment: u32, page: u64) -> Tally {
        let mut dropped = Tally::default();
        let Some(open) = self.open.get_mut(&segment) else {
            return dropped;
        };
        let Some(place) = open.pages.iter().position(|read| read.number == page) else {
            return dropped;
        };
        let mut pages = open.pages.drain(place..);
        if let Some(first) = pages.next() {
            open.after = first.begin;
        }
        pages.for_each(|page| dropped += page.tally.unwrap_or_default());
        (open.ended, open.stale) = (false, open.reading);
        dropped
    }

    /// Another process has the segment. Returns the tally of pages that were done and not saved,
    /// which the other process will do.
    pub(crate) fn leave(&mut self, segment: u32) -> Tally {
        let mut dropped = Tally::default();
        let Some(open) = self.open.remove(&segment) else {
            return dropped;
        };
        self.left.insert(segment);
        let done = [open.saving, open.unsaved].into_iter();
        let ahead = open.pages.into_iter().map(|page| page.tally);
        done.chain(ahead)
            .flatten()
            .for_each(|tally| dropped += tally);
        dropped
    }

    /// A page is done. Only one save of a segment is made at a time.
    pub(crate) fn written(&mut self, segment: u32, page: u64, tally: Tally) -> Took {
        let Some(open) = self.open.get_mut(&segment) else {
            return Took::Nothing;
        };
        let Some(read) = open.pages.iter_mut().find(|read| read.number == page) else {
            return Took::Nothing;
        };
        read.tally = Some(tally);
        while let Some(done) = open.pages.pop_front_if(|page| page.tally.is_some()) {
            let tally = done.tally.unwrap_or_default();
            *open.unsaved.get_or_insert_default() += tally.clone();
            open.tally += tally;
            open.tally.rejected.truncate(MAX_KEPT);
            open.row = Some(SegmentRow {
                at: done.end,
                tally: open.tally.clone(),
            });
        }
        Took::Page(open.save(segment).map(Box::new))
    }

    /// A save was made, and the row has this version now.
    pub(crate) fn saved(&mut self, segment: u32, version: u64) -> Next {
        let Some(open) = self.open.get_mut(&segment) else {
            return Next::Rest;
        };
        (open.saving, open.version) = (None, Some(version));
        if let Some(save) = open.save(segment) {
            return Next::Save(Box::new(save));
        }
        if !open.at_end() {
            return Next::Rest;
        }
        self.open.remove(&segment);
        self.done += 1;
        Next::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(rows: u64) -> Tally {
        let mut tally = Tally::default();
        tally.counts.rows = rows;
        tally
    }

    fn saves(took: Took) -> Box<Save> {
        match took {
            Took::Page(Some(save)) => save,
            took => panic!("nothing to save: {took:?}"),
        }
    }

    fn cursor(n: u64) -> Option<Cursor> {
        Some(Cursor::new(n.to_string()))
    }

    fn asked(segments: &mut Segments) -> Option<(u32, Option<String>)> {
        let ask = segments.next()?;
        Some((ask.segment, ask.after.map(|after| after.to_string())))
    }

    #[test]
    fn workers_begin_with_different_segments_and_open_no_more_than_they_need() {
        let mut segments = Segments::new(0..100, BTreeMap::new());
        for n in 0..4 {
            assert_eq!(asked(&mut segments), Some((n, None)));
        }
        segments.read(2, cursor(1));
        assert_eq!(asked(&mut segments), Some((2, Some("1".into()))));
        // Of two segments that are not being read, the one with less under way.
        segments.read(2, cursor(2));
        segments.read(1, cursor(1));
        assert_eq!(asked(&mut segments), Some((1, Some("1".into()))));
        assert_eq!(segments.open.len(), 4);
    }

    #[test]
    fn the_pages_of_one_segment_are_read_one_after_the_other() {
        let mut segments = Segments::new(0..1, BTreeMap::new());
        assert_eq!(asked(&mut segments), Some((0, None)));
        assert_eq!(asked(&mut segments), None);
        segments.read(0, cursor(1));
        assert_eq!(asked(&mut segments), Some((0, Some("1".into()))));
        assert_eq!(asked(&mut segments), None);
    }

    #[test]
    fn a_checkpoint_is_the_end_of_the_longest_beginning_that_is_done() {
        let mut segments = Segments::new(0..1, BTreeMap::new());
        for page in 0..4 {
            segments.next().unwrap();
            let next = cursor(page + 1).filter(|_| page < 3);
            assert_eq!(segments.read(0, next), Some(page));
        }
        assert_eq!(segments.written(0, 1, tally(10)), Took::Page(None));
        let save = saves(segments.written(0, 0, tally(1)));
        assert_eq!(save.row.at, At::Cursor(Cursor::new("2")));
        assert_eq!((save.row.tally.counts.rows, save.over), (11, None));
        assert_eq!(segments.written(0, 3, tally(1000)), Took::Page(None));
        // One save at a time; pages done meanwhile are saved together.
        assert_eq!(segments.written(0, 2, tally(100)), Took::Page(None));
        let Next::Save(save) = segments.saved(0, 1) else {
            panic!("the rest is not saved");
        };
        assert_eq!((&save.row.at, save.over), (&At::End, Some(1)));
        assert_eq!(save.row.tally.counts.rows, 1111);
        assert!(!segments.all_done());
        assert_eq!(segments.saved(0, 2), Next::Done);
        assert!(segments.all_done());
    }

    #[test]
    fn a_segment_goes_on_where_its_row_says_and_one_that_is_done_is_left_out() {
        let row = |at| SegmentRow {
            at,
            tally: tally(7),
        };
        let found = BTreeMap::from([
            (3, (row(At::End), 4)),
            (4, (row(At::Cursor(Cursor::new("9"))), 2)),
        ]);
        let mut segments = Segments::new(3..6, found);
        assert_eq!((segments.done(), segments.of()), (1, 3));
        assert_eq!(asked(&mut segments), Some((4, Some("9".into()))));
        assert_eq!(asked(&mut segments), Some((5, None)));
        assert_eq!(asked(&mut segments), None);
        segments.read(4, None);
        let save = saves(segments.written(4, 0, tally(5)));
        assert_eq!((save.row.tally.counts.rows, save.over), (12, Some(2)));
    }

    #[test]
    fn what_was_begun_comes_before_what_is_open() {
        let row = |n: u64| SegmentRow {
            at: At::Cursor(Cursor::new(n.to_string())),
            tally: tally(n),
        };
        let found = BTreeMap::from([(1, (row(5), 1)), (7, (row(6), 1))]);
        let mut segments = Segments::new(0..9, found);
        assert_eq!(asked(&mut segments), Some((1, Some("5".into()))));
        segments.read(1, cursor(8));
        assert_eq!(asked(&mut segments), Some((7, Some("6".into()))));
        assert_eq!(asked(&mut segments), Some((1, Some("8".into()))));
        assert_eq!(asked(&mut segments), Some((0, None)));
        let rest = std::iter::from_fn(|| asked(&mut segments).map(|(segment, _)| segment));
        assert_eq!(rest.collect::<Vec<_>>(), [2, 3, 4, 5, 6, 8]);
    }

    #[test]
    fn nobody_reads_ever_farther_ahead_of_a_page_that_hangs() {
        let mut segments = Segments::new(0..1, BTreeMap::new());
        let mut read = 0;
        while let Some(ask) = segments.next() {
            let page = segments.read(ask.segment, cursor(read + 1)).unwrap();
            if page > 0 {
                segments.written(0, page, tally(1));
            }
            read += 1;
        }
        assert_eq!(read, FAR_AHEAD as u64);
        saves(segments.written(0, 0, tally(1)));
        assert!(segments.next().is_some());
    }

    #[test]
    fn a_page_that_is_read_again_takes_those_after_it_along() {
        let mut segments = Segments::new(0..1, BTreeMap::new());
        for page in 0..3 {
            segments.next().unwrap();
            assert_eq!(segments.read(0, cursor(page + 1)), Some(page));
        }
        // One more is being read.
        assert_eq!(asked(&mut segments), Some((0, Some("3".into()))));
        saves(segments.written(0, 0, tally(1)));
        // What was done of the third is given back.
        assert_eq!(segments.again(0, 1), tally(0));
        assert_eq!(segments.written(0, 2, tally(100)), Took::Nothing);
        assert_eq!(segments.read(0, cursor(4)), None, "it is of the old chain");
        assert_eq!(asked(&mut segments), Some((0, Some("1".into()))));
        assert_eq!(segments.read(0, None), Some(3));
        assert_eq!(segments.written(0, 1, tally(1000)), Took::Nothing);
        assert_eq!(segments.written(0, 3, tally(10)), Took::Page(None));
        let Next::Save(save) = segments.saved(0, 1) else {
            panic!("the rest is not saved");
        };
        assert_eq!((&save.row.at, save.row.tally.counts.rows), (&At::End, 11));
        assert_eq!(segments.saved(0, 2), Next::Done);
    }

    #[test]
    fn what_will_be_done_once_more_is_given_back() {
        let mut segments = Segments::new(0..1, BTreeMap::new());
        for page in 0..5 {
            segments.next().unwrap();
            segments.read(0, cursor(page + 1)).unwrap();
        }
        saves(segments.written(0, 0, tally(1)));
        segments.written(0, 3, tally(1000));
        // The third page is read again, and with it the fourth, which was done.
        assert_eq!(segments.again(0, 2), tally(1000));
        assert_eq!(segments.again(0, 2), Tally::default());
        // What is not saved is the other's: the save of the first page was refused.
        segments.written(0, 1, tally(10));
        segments.next().unwrap();
        let again = segments.read(0, cursor(3)).unwrap();
        segments.next().unwrap();
        let ahead = segments.read(0, cursor(4)).unwrap();
        segments.written(0, ahead, tally(100));
        assert_eq!(segments.leave(0), tally(111));
        assert_eq!(segments.written(0, again, tally(7)), Took::Nothing);
        assert_eq!(segments.leave(0), Tally::default());
    }

    #[test]
    fn what_was_saved_is_not_given_back() {
        let mut segments = Segments::new(0..1, BTreeMap::new());
        for page in 0..2 {
            segments.next().unwrap();
            segments.read(0, cursor(page + 1)).unwrap();
        }
        saves(segments.written(0, 0, tally(1)));
        assert_eq!(segments.saved(0, 1), Next::Rest);
        saves(segments.written(0, 1, tally(10)));
        assert_eq!(segments.leave(0), tally(10));
    }

    #[test]
    fn a_segment_that_another_process_has_is_left_to_it() {
        let mut segments = Segments::new(0..2, BTreeMap::new());
        segments.next().unwrap();
        segments.read(0, cursor(1)).unwrap();
        assert_eq!(asked(&mut segments), Some((0, Some("1".into()))));
        assert_eq!(segments.leave(0), Tally::default());
        assert_eq!(segments.read(0, cursor(2)), None);
        assert_eq!(segments.written(0, 0, tally(1)), Took::Nothing);
        assert_eq!(asked(&mut segments), Some((1, None)));
        assert!(!segments.all_done());
        segments.read(1, None).unwrap();
        saves(segments.written(1, 0, tally(1)));
        assert_eq!(segments.saved(1, 1), Next::Done);
        assert!(segments.all_done());
        assert_eq!(segments.left(), &BTreeSet::from([0]));
    }
}
