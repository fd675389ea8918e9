//! Random and mutated texts, for the tests of decoders.

use murmur_state::time::Random;

pub(crate) struct Mutations(Random);

impl Mutations {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Random::seeded(seed))
    }

    pub(crate) fn below(&self, n: usize) -> usize {
        (self.0.bits() % n.max(1) as u128) as usize
    }

    fn byte(&self) -> u8 {
        const LIKELY: &[u8] = b"{}[]\":,0123456789eE+-.\\ntfSNBLM \0\xff";
        match self.below(4) {
            0 => self.below(256) as u8,
            _ => LIKELY[self.below(LIKELY.len())],
        }
    }

    /// Up to 60 random bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        (0..self.below(60)).map(|_| self.byte()).collect()
    }

    /// `text` with one to three changes: a byte changed, put in or taken out, a part cut off, taken
    /// out, doubled or moved.
    pub(crate) fn mutated(&self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        for _ in 0..1 + self.below(3) {
            let at = self.below(text.len());
            let to = at + self.below(12).min(text.len() - at);
            match self.below(7) {
                0 if !text.is_empty() => text[at] = self.byte(),
                1 => text.insert(at, self.byte()),
                2 if !text.is_empty() => drop(text.remove(at)),
                3 => text.truncate(at),
                4 => drop(text.drain(at..to)),
                5 => {
                    let part = text[at..to].to_vec();
                    text.splice(at..at, part);
                }
                _ => {
                    let part: Vec<u8> = text.drain(at..to).collect();
                    let at = self.below(text.len() + 1);
                    text.splice(at..at, part);
                }
            }
        }
        text
    }
}
