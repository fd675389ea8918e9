//! Client request tokens: a transaction that is sent twice is applied once.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;

/// How long a token is remembered after its transaction has ended.
const LIFE: Duration = Duration::from_secs(600);

/// The recent tokens. All times are since the start.
#[derive(Default)]
pub(super) struct Tokens(HashMap<String, Token>);

struct Token {
    items: Value,
    /// When its transaction ended; `None` while it is under way.
    done: Option<Duration>,
}

/// The state of a token.
pub(super) enum Seen {
    /// Not seen before; its transaction is under way from now on.
    New,
    OfOtherItems,
    UnderWay,
    Done,
}

impl Tokens {
    pub(super) fn begin(&mut self, token: &str, items: &Value, now: Duration) -> Seen {
        self.0
            .retain(|_, token| token.done.is_none_or(|done| now < done + LIFE));
        match self.0.get(token) {
            Some(seen) if seen.items != *items => Seen::OfOtherItems,
            Some(seen) if seen.done.is_none() => Seen::UnderWay,
            Some(_) => Seen::Done,
            None => {
                let seen = Token {
                    items: items.clone(),
                    done: None,
                };
                self.0.insert(token.to_owned(), seen);
                Seen::New
            }
        }
    }

    /// Ends the token's transaction. A transaction that was refused may be sent again.
    pub(super) fn end(&mut self, token: &str, applied: bool, now: Duration) {
        match self.0.get_mut(token) {
            Some(token) if applied => token.done = Some(now),
            _ => drop(self.0.remove(token)),
        }
    }
}
