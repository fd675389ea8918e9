//! Pages, which take the ids that a row drops: their names, and what a row records about them.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::error::Place;
use murmur_state::{Key, PipelineName, StoreError};

use super::ids::Element;
use crate::attribute::{Item, TOPS, number, wrong_shape};

/// How much time one page covers: 2^level seconds of creation. A level below 0 covers the part of
/// one second whose ids share their last −level bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(i8);

impl Level {
    /// A second in 65,536 parts.
    const LEAST: i8 = -16;
    /// 194 days.
    const MOST: i8 = 24;

    /// The level at which `ids` that were created over `seconds` fill pages of `target`.
    pub(crate) fn of(ids: usize, seconds: i64, target: usize) -> Self {
        let fitting = |target: usize| {
            let level = (target as f64 * seconds.max(1) as f64 / ids.max(1) as f64).log2();
            Self::bounded(level.round() as i64)
        };
        match fitting(target) {
            level if level > Self(0) => level,
            _ => fitting(Self(0).room(target)).min(Self(0)),
        }
    }

    /// How many ids a page of this level should have, if a page of a longer time should have
    /// `target`. All parts of a second are written at every page-out, so fewer parts cost less,
    /// until a page exceeds the 4 KB that one read unit covers.
    fn room(self, target: usize) -> usize {
        if self > Self(0) { target } else { 4 * target }
    }

    fn bounded(level: i64) -> Self {
        let level = level.clamp(Self::LEAST.into(), Self::MOST.into());
        Self(i8::try_from(level).unwrap_or(0))
    }

    /// The level that is `by` coarser, or finer if negative.
    pub(crate) fn moved(self, by: i64) -> Self {
        Self::bounded(i64::from(self.0).saturating_add(by))
    }

    /// The name of the page for an event of this second and id, and the first second after the time
    /// that the page covers.
    fn page(self, second: i64, id: &[u8]) -> (Vec<String>, i64) {
        let level = self.0.to_string();
        let Ok(finer) = u32::try_from(-i64::from(self.0)) else {
            let bucket = second >> self.0;
            return (vec![level, bucket.to_string()], (bucket + 1) << self.0);
        };
        // The last bits differ even if ids are numbers or begin with a time.
        let last = match id {
            [.., a, b] => u32::from(u16::from_be_bytes([*a, *b])),
            _ => 0,
        };
        let part = last & ((1 << finer) - 1);
        (
            vec![level, second.to_string(), part.to_string()],
            second + 1,
        )
    }
}

/// One page of a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Page {
    /// Distinguishes its key from those of other pages of the row.
    name: Vec<String>,
    /// The first second after the time that it covers, or `None` for the page of one event without
    /// a creation time.
    pub(crate) end: Option<i64>,
}

impl Page {
    /// Its key in the marker table, as a page of the row `key` of `table`.
    pub(crate) fn key(&self, pipeline: &PipelineName, table: &str, key: &Key) -> String {
        let bucket = key.bucket().to_string();
        let mut parts = vec![table, key.entity(), &bucket];
        parts.extend(self.name.iter().map(String::as_str));
        pipeline.marker("page", &parts)
    }

    /// The page that `element` belongs to at `level`.
    pub(crate) fn of(element: &Element, level: Level) -> Self {
        match element.second() {
            Some(second) => {
                let (name, end) = level.page(second, element.id());
                Self {
                    name,
                    end: Some(end),
                }
            }
            None => {
                let digits = element.id().iter();
                let id = digits.map(|byte| format!("{byte:02x}")).collect();
                Self {
                    name: vec![UNDATED.to_owned(), id],
                    end: None,
                }
            }
        }
    }
}

/// What a row records about its pages: for each level, the last second of creation of any id that
/// was ever paged out at it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tops {
    seconds: BTreeMap<Level, i64>,
    /// Whether there was an event without a creation time.
    undated: bool,
}

/// The name in `tops` for pages of events without a creation time.
const UNDATED: &str = "undated";

impl Tops {
    pub(crate) fn of(place: &Place, row: &Item) -> Result<Self, StoreError> {
        let mut tops = Self::default();
        let Some(found) = row.get(TOPS) else {
            return Ok(tops);
        };
        let wrong = || wrong_shape(place, row, TOPS, "a map of levels to seconds");
        let AttributeValue::M(levels) = found else {
            return Err(wrong());
        };
        for (level, second) in levels {
            let AttributeValue::N(second) = second else {
                return Err(wrong());
            };
            let second = second.parse().map_err(|_| wrong())?;
            if level == UNDATED {
                tops.undated = true;
                continue;
            }
            let number: i8 = level.parse().map_err(|_| wrong())?;
            let is_level = (Level::LEAST..=Level::MOST).contains(&number);
            if !is_level || number.to_string() != *level {
                return Err(wrong());
            }
            tops.seconds.insert(Level(number), second);
        }
        Ok(tops)
    }

    pub(crate) fn attribute(&self) -> AttributeValue {
        let seconds = self.seconds.iter();
        let mut levels: HashMap<_, _> = seconds
            .map(|(level, second)| (level.0.to_string(), number(second)))
            .collect();
        if self.undated {
            levels.insert(UNDATED.to_owned(), number(1));
        }
        AttributeValue::M(levels)
    }

    /// Records that `element` is in a page of `level`.
    pub(crate) fn note(&mut self, element: &Element, level: Level) {
        match element.second() {
            None => self.undated = true,
            Some(second) => self.raise(level, second),
        }
    }

    fn raise(&mut self, level: Level, second: i64) {
        let top = self.seconds.entry(level).or_insert(second);
        *top = second.max(*top);
    }

    /// Adds everything that `other` records.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.undated |= other.undated;
        for (level, second) in &other.seconds {
            self.raise(*level, *second);
        }
    }

    /// The pages in which `element` may be.
    pub(crate) fn pages(&self, element: &Element) -> Vec<Page> {
        match element.second() {
            None if self.undated => vec![Page::of(element, Level(0))],
            None => Vec::new(),
            Some(second) => {
                let reaching = self.seconds.iter().filter(|(_, top)| second <= **top);
                reaching
                    .map(|(level, _)| Page::of(element, *level))
                    .collect()
            }
        }
    }

    /// The level of the last pages. If two levels end alike, the finer one.
    pub(crate) fn last(&self) -> Option<Level> {
        let mut last: Option<(Level, i64)> = None;
        for (level, second) in &self.seconds {
            if last.is_none_or(|(_, top)| *second > top) {
                last = Some((*level, *second));
            }
        }
        last.map(|(level, _)| level)
    }
}

/// Chooses the level at which this process pages out a row's ids, by the size that its pages reach.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sizing {
    level: Option<Level>,
    /// The newest pages, and how many ids they had when they were last written.
    open: BTreeMap<Page, usize>,
    /// How many consecutive pages ended at less than half of their target size.
    small: u32,
}

/// Consecutive pages that ended too small, after which the level becomes coarser.
const PATIENCE: u32 = 3;

impl Sizing {
    /// The level for these elements: the level last found right, else the row's last, else the one
    /// for the seconds of the elements.
    pub(crate) fn level(&mut self, tops: &Tops, elements: &[Element], target: usize) -> Level {
        if let Some(level) = self.level.or_else(|| tops.last()) {
            self.level = Some(level);
            return level;
        }
        let seconds: Vec<i64> = elements.iter().filter_map(Element::second).collect();
        let (Some(first), Some(last)) = (seconds.iter().min(), seconds.iter().max()) else {
            // Each element has a page of its own, at any level.
            return Level(0);
        };
        let level = Level::of(seconds.len(), last - first, target);
        self.level = Some(level);
        level
    }

    /// Records that these pages were written at the level, and how many ids they now have.
    pub(crate) fn learn(&mut self, pages: BTreeMap<Page, usize>, target: usize) {
        let Some(level) = self.level else { return };
        let room = level.room(target).max(1);
        let largest = pages.values().max().copied().unwrap_or(0);
        if largest > 2 * room {
            return self.finer((largest / room).ilog2());
        }
        // A page of an earlier time than the newest rarely grows any more.
        let newest = pages.keys().map(|page| page.end).max().flatten();
        self.open.extend(pages);
        let left = self.open.extract_if(.., |page, _| page.end < newest);
        let Some(largest) = left.map(|(_, ids)| ids).max() else {
            return;
        };
        let room = level.moved(1).room(target);
        if largest * 2 >= room {
            self.small = 0;
            return;
        }
        self.small += 1;
        if self.small >= PATIENCE {
            let coarser = (room / largest.max(1)).max(2).ilog2();
            self.move_by(coarser.into());
        }
    }

    /// Makes the level finer by `by`.
    pub(crate) fn finer(&mut self, by: u32) {
        self.move_by(-i64::from(by));
    }

    fn move_by(&mut self, levels: i64) {
        self.level = self.level.map(|level| level.moved(levels));
        self.open.clear();
        self.small = 0;
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::primitives::Blob;
    use murmur_state::Timestamp;

    use super::*;
    use crate::any_rows::{holds, look_at};

    fn element(number: u128, second: i64) -> Element {
        let created = Timestamp::from_secs(second);
        Element::new(&number.to_be_bytes(), Some(created))
    }

    #[test]
    fn a_page_stands_for_what_its_level_says() {
        let name = |level, second, number| Page::of(&element(number, second), Level(level)).name;
        assert_eq!(name(4, 1600, 1), name(4, 1615, 2));
        assert_ne!(name(4, 1599, 1), name(4, 1600, 1));
        assert_ne!(name(4, 1600, 1), name(5, 1600, 1), "levels keep apart");
        assert_eq!(name(0, 7, 1), name(0, 7, 2));
        assert_eq!(name(-1, 7, 1), name(-1, 7, 3));
        assert_ne!(name(-1, 7, 1), name(-1, 7, 2));
        assert_ne!(name(-1, 7, 1), name(-1, 8, 1));
        let parts: std::collections::HashSet<_> =
            (0..70_000).map(|number| name(-16, 7, number)).collect();
        assert_eq!(parts.len(), 65_536);
        let end = |level| Page::of(&element(9, 1601), Level(level)).end;
        assert_eq!(
            [end(-3), end(0), end(4), end(24)],
            [Some(1602), Some(1602), Some(1616), Some(1 << 24)]
        );
    }

    #[test]
    fn an_event_is_looked_for_where_it_may_be_and_nowhere_else() {
        let mut tops = Tops::default();
        tops.note(&element(1, 1000), Level(3));
        tops.note(&element(2, 900), Level(3));
        tops.note(&element(3, 2000), Level(-2));
        let levels = |second| tops.pages(&element(5, second)).len();
        assert_eq!([levels(1000), levels(1001), levels(2001)], [2, 1, 0]);
        let undated = Element::new(&[7; 16], None);
        assert!(tops.pages(&undated).is_empty());
        let mut other = Tops::default();
        other.note(&undated, Level(3));
        tops.merge(&other);
        assert_eq!(tops.pages(&undated), [Page::of(&undated, Level(9))]);
        assert_eq!(tops.last(), Some(Level(-2)));
    }

    #[test]
    fn no_tops_are_taken_for_others() {
        let place = Place::table("Int64SumStore", "totals");
        let mut tops = Tops::default();
        tops.note(&element(1, 1000), Level(3));
        tops.note(&element(1, 2000), Level(-16));
        let mut both = tops.clone();
        both.undated = true;
        let row = |tops: &Tops| Item::from([(TOPS.to_owned(), tops.attribute())]);
        for tops in [&Tops::default(), &tops, &both] {
            assert_eq!(Tops::of(&place, &row(tops)).unwrap(), *tops);
        }
        for (level, second) in [
            ("25", "1"),
            ("-17", "1"),
            ("+3", "1"),
            ("03", "1"),
            ("3", "x"),
        ] {
            let levels = HashMap::from([(level.to_owned(), AttributeValue::N(second.into()))]);
            let row = Item::from([(TOPS.to_owned(), AttributeValue::M(levels))]);
            assert!(Tops::of(&place, &row).is_err(), "{level}: {second}");
        }
        let blob = AttributeValue::B(Blob::new([1]));
        let row_of_bytes = Item::from([(TOPS.to_owned(), blob)]);
        assert!(Tops::of(&place, &row_of_bytes).is_err());
        look_at(&[row(&tops), row(&both)], &[], |row| {
            let Ok(tops) = Tops::of(&place, row) else {
                return false;
            };
            if row.contains_key(TOPS) && !tops.undated {
                assert!(holds(row, TOPS, Some(&tops.attribute())), "{row:?}");
            }
            true
        });
    }

    #[test]
    fn ids_without_a_second_say_nothing_about_the_level() {
        let (mut sizing, tops) = (Sizing::default(), Tops::default());
        let undated = [Element::new(&[7; 16], None), Element::new(&[8; 16], None)];
        sizing.level(&tops, &undated, 40);
        let dated: Vec<_> = (0..20)
            .map(|n| element(n, 1_000_000 + 60 * n as i64))
            .collect();
        let mixed = [&undated[..], &dated].concat();
        assert_eq!(sizing.level(&tops, &mixed, 40), Level(11));
    }

    #[test]
    fn pages_become_as_large_as_they_should_be() {
        // For so many ids a page-out and so many events a second: how many ids the pages hold in
        // the end, and over how many levels they are spread.
        for ids in [1, 6, 24, 70] {
            for rate in [0.001, 0.02, 0.7, 20.0, 900.0] {
                let (mut sizing, mut tops) = (Sizing::default(), Tops::default());
                let mut pages: BTreeMap<Page, usize> = BTreeMap::new();
                let mut number = 0_u32;
                for round in 0..12_000 / ids {
                    let elements: Vec<Element> = (0..ids)
                        .map(|_| {
                            number += 1;
                            let second = 1_800_000_000 + (f64::from(number) / rate) as i64;
                            element(u128::from(number.wrapping_mul(0x9e37_79b9)), second)
                        })
                        .collect();
                    let level = sizing.level(&tops, &elements, 40);
                    let mut written = BTreeMap::new();
                    for element in &elements {
                        let page = Page::of(element, level);
                        let ids = pages.entry(page.clone()).or_default();
                        *ids += 1;
                        written.insert(page, *ids);
                        tops.note(element, level);
                    }
                    sizing.learn(written, 40);
                    if round == 6_000 / ids {
                        pages.clear();
                        tops = Tops::default();
                    }
                }
                let mean = pages.values().sum::<usize>() as f64 / pages.len() as f64;
                let most = if rate > 40.0 { 320.0 } else { 90.0 };
                assert!((15.0..most).contains(&mean), "{ids} at {rate}: {mean}");
                assert!(tops.seconds.len() <= 3, "{ids} at {rate}: {tops:?}");
            }
        }
    }
}
