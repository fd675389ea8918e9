//! Checkpoints as rows of the marker table.
//!
//! A checkpoint is a *main row* with `ver`, and with its text as `data`. Text that does not fit in
//! one item is cut into *parts*, which are rows of their own with only `data`. The main row then
//! has the number of parts (`parts`), the name that they share (`tok`, random for each call of
//! `save`), and a digest of the whole text (`sum`).
//!
//! **A main row is never without its parts.** A save writes its parts first. Then it writes the
//! main row, on the condition that a checkpoint always has. Parts are removed in two cases only:
//!
//! - By the save that wrote them, if its main row was certainly not written: the service refused
//!   it, or it was never sent. No other request has that token, so no main row will ever have it.
//! - By the save or removal that replaced a main row, as DynamoDB returned it in the answer
//!   (`ALL_OLD`). The one request that could write that row has been carried out, so no main row
//!   has the token now or later.
//!
//! Every save has another token, so a removal never meets the parts of another save: not if the
//! same text is saved twice, not if a name is used again, and not if a request arrives late. (Names
//! made from the text would not do: a save refused at version 3 would remove the parts that a save
//! of the same text, after a removal of the checkpoint, is about to name.) Parts without a main row
//! can remain after a crash in between, or after a save or removal whose answer was lost. They cost
//! only storage.
//!
//! A load reads the main row, then the parts, and compares the digest. If the digest does not
//! match, it reads the main row again. If that has changed, another save has removed the parts
//! meanwhile, and the load starts again. If it has not, something else has removed or changed the
//! parts, which is an error.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::error::Place;
use murmur_state::{Causes, Checkpoints, Deadline, RetryPolicy, StoreError};
use sha2::{Digest, Sha256};
use std::future::ready;

use crate::attribute::{DATA, Item, PARTS, PK, SUM, TOK, VER, integer, number, text, wrong_shape};
use crate::deduper::Deduper;
use crate::error::{Written, written};

/// The most bytes of text in one row. An item is limited to 400 KB with its names (Amazon DynamoDB
/// Developer Guide, quotas); a name has up to 2 KB.
const MOST: usize = 390_000;

/// How many parts are read or removed concurrently.
const AT_ONCE: usize = 8;

/// How many parts are written concurrently. Each costs some 390 write units.
const WRITES_AT_ONCE: usize = 2;

/// How often a part that fails with a transient error is written again.
const PART_RETRIES: u32 = 8;

/// How often a load starts again because of another save.
const RELOADS: u32 = 10;

/// Checkpoints as rows of the marker table, without a `ttl`.
///
/// Text of up to 390,000 bytes is one row. Longer text takes one row for each 390,000 bytes and one
/// more, and as many requests for a load or a save. Saving 1,000,000 bytes costs some 1,000 write
/// units. Rows that are no longer needed are removed, which costs the same and needs
/// `dynamodb:DeleteItem`. Without that permission they stay, and a warning is logged.
impl Checkpoints for Deduper {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        async move {
            let place = self.place(name)?;
            let mut before: Option<Parts> = None;
            for _ in 0..RELOADS {
                let Some(row) = self.get(name, Deadline::NONE).await? else {
                    return Ok(None);
                };
                let (version, content) = main_row(&place, &row)?;
                let parts = match content {
                    Content::Whole(data) => return Ok(Some(Checkpoint { data, version })),
                    Content::Parts(parts) => parts,
                };
                if before.as_ref() == Some(&parts) {
                    // The main row did not change, so no other save has removed the parts.
                    return Err(StoreError::WrongShape {
                        place,
                        attribute: SUM,
                        found: "not the digest of its parts: some are missing or changed"
                            .to_owned(),
                        expected: "the digest of all rows of the checkpoint: restore the rows, or \
                                   remove the checkpoint",
                        source: None,
                    });
                }
                if let Some(data) = self.read_parts(name, &parts).await? {
                    return Ok(Some(Checkpoint { data, version }));
                }
                before = Some(parts);
            }
            Err(StoreError::Conflict {
                place,
                source: None,
            })
        }
        .boxed()
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        async move {
            if data.len() <= MOST {
                let content = Content::Whole(data.to_owned());
                return self.save_main(name, &content, over).await;
            }
            let token = self.table.token(&self.table.place())?;
            let parts = cut(data);
            let known = Parts {
                token,
                count: parts.len(),
                digest: digest(data),
            };
            let parts = parts.into_iter().enumerate();
            let parts: Vec<_> = parts
                .map(|(at, part)| (known.name(name, at), part))
                .collect();
            let writes = parts.into_iter();
            let writes = writes.map(|(name, part)| self.put_part(name, part));
            let wrote: Result<(), _> = stream::iter(writes)
                .buffer_unordered(WRITES_AT_ONCE)
                .try_collect()
                .await;
            let content = Content::Parts(known);
            let saved = match wrote {
                Ok(()) => self.save_main(name, &content, over).await,
                Err(error) => {
                    self.drop_parts(name, &content).await;
                    return Err(error);
                }
            };
            // Then the main row was not written, and never will be.
            if saved
                .as_ref()
                .err()
                .is_some_and(|error| !may_have_applied(error))
            {
                self.drop_parts(name, &content).await;
            }
            saved
        }
        .boxed()
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        async move {
            let place = self.place(name)?;
            let result = self
                .table
                .client
                .delete_item()
                .table_name(&*self.table.name)
                .key(PK, AttributeValue::S(name.to_owned()))
                .condition_expression("attribute_not_exists(pk) OR ver = :over")
                .expression_attribute_values(":over", number(over))
                .return_values(ReturnValue::AllOld)
                .return_values_on_condition_check_failure(
                    ReturnValuesOnConditionCheckFailure::AllOld,
                )
                .customize()
                .config_override(self.table.write_once(&place, Deadline::NONE)?)
                .send()
                .await;
            match written(&place, result)? {
                Written::Done(done) => {
                    self.drop_replaced(name, &place, done.attributes).await;
                    Ok(Removed::Gone)
                }
                // A row that is not a checkpoint is not the result of another save.
                Written::Refused(row) => main_row(&place, &row).map(|_| Removed::Conflict),
            }
        }
        .boxed()
    }
}

/// What a main row holds of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Whole(String),
    Parts(Parts),
}

impl Content {
    /// Whether both are the same text, even if different calls saved it.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => one == other,
            (Self::Parts(one), Self::Parts(other)) => one.digest == other.digest,
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    /// The name of the parts; each call of `save` has its own.
    token: String,
    count: usize,
    /// The digest of the whole text.
    digest: String,
}

impl Parts {
    /// The id of the part at `at`.
    fn name(&self, checkpoint: &str, at: usize) -> String {
        format!("{checkpoint}/part/{}/{at}", self.token)
    }
}

impl Deduper {
    /// Writes the main row over version `over`. Then removes the parts of the row it replaced, or
    /// its own parts if it was refused.
    async fn save_main(
        &self,
        name: &str,
        content: &Content,
        over: Option<u64>,
    ) -> Result<Saved, StoreError> {
        let place = self.place(name)?;
        let version = over.map_or(1, |over| over.saturating_add(1));
        let mut put = self
            .table
            .client
            .put_item()
            .table_name(&*self.table.name)
            .item(PK, AttributeValue::S(name.to_owned()))
            .item(VER, number(version))
            .return_values(ReturnValue::AllOld)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        put = match content {
            Content::Whole(data) => put.item(DATA, AttributeValue::S(data.clone())),
            Content::Parts(Parts {
                token,
                count,
                digest,
            }) => put
                .item(PARTS, number(count))
                .item(TOK, AttributeValue::S(token.clone()))
                .item(SUM, AttributeValue::S(digest.clone())),
        };
        put = match over {
            None => put.condition_expression("attribute_not_exists(pk)"),
            Some(over) => put
                .condition_expression("ver = :over")
                .expression_attribute_values(":over", number(over)),
        };
        let once = self.table.write_once(&place, Deadline::NONE)?;
        let result = put.customize().config_override(once).send().await;
        let row = match written(&place, result)? {
            Written::Done(done) => {
                self.drop_replaced(name, &place, done.attributes).await;
                return Ok(Saved::Version(version));
            }
            Written::Refused(row) => row,
        };
        self.drop_parts(name, content).await;
        if row.is_empty() {
            return Ok(Saved::Conflict);
        }
        // An own save whose answer was lost is found as it was written.
        let (found, known) = main_row(&place, &row)?;
        Ok(match found == version && known.is_same(content) {
            true => Saved::Version(version),
            false => Saved::Conflict,
        })
    }

    /// Retries transient errors here, because a repeated save would start with the first part.
    async fn put_part(&self, name: String, part: String) -> Result<(), StoreError> {
        let (place, policy) = (self.place(&name)?, RetryPolicy::default());
        let mut round = 0;
        loop {
            match self.put_part_once(&place, name.clone(), part.clone()).await {
                Err(error) if error.is_retryable() && round < PART_RETRIES => {
                    let wait = self.table.pause(&place, &policy, round, Deadline::NONE);
                    wait.await?;
                    round += 1;
                }
                put => return put,
            }
        }
    }

    async fn put_part_once(
        &self,
        place: &Place,
        name: String,
        part: String,
    ) -> Result<(), StoreError> {
        let result = self
            .table
            .client
            .put_item()
            .table_name(&*self.table.name)
            .item(PK, AttributeValue::S(name))
            .item(DATA, AttributeValue::S(part))
            .customize()
            .config_override(self.table.write_once(place, Deadline::NONE)?)
            .send()
            .await;
        written(place, result).map(|_| ())
    }

    /// The text of the parts, or `None` if it is incomplete.
    async fn read_parts(&self, name: &str, parts: &Parts) -> Result<Option<String>, StoreError> {
        let names = (0..parts.count).map(|at| parts.name(name, at));
        let reads = names.map(|name| async move { self.get(&name, Deadline::NONE).await });
        let rows: Vec<Option<Item>> = stream::iter(reads).buffered(AT_ONCE).try_collect().await?;
        let mut whole = String::new();
        for row in rows {
            match row.as_ref().and_then(|row| row.get(DATA)) {
                Some(AttributeValue::S(part)) => whole.push_str(part),
                _ => return Ok(None),
            }
        }
        Ok((digest(&whole) == parts.digest).then_some(whole))
    }

    /// Removes the parts of a main row that was replaced or removed.
    async fn drop_replaced(&self, name: &str, place: &Place, row: Option<Item>) {
        let replaced = row.and_then(|row| main_row(place, &row).ok());
        if let Some((_, content)) = replaced {
            self.drop_parts(name, &content).await;
        }
    }

    /// Removes parts that no main row has. Parts that stay do no harm.
    async fn drop_parts(&self, name: &str, content: &Content) {
        let Content::Parts(parts) = content else {
            return;
        };
        let removals = (0..parts.count).map(|at| self.drop_part(parts.name(name, at)));
        let failures = stream::iter(removals).buffer_unordered(AT_ONCE);
        let failures: Vec<StoreError> = failures.filter_map(ready).collect().await;
        if let Some(error) = failures.first() {
            tracing::warn!(
                checkpoint = name,
                table = &*self.table.name,
                rows = failures.len(),
                error = %Causes(error),
                "unneeded rows of a checkpoint could not be removed; they cost storage and do no harm"
            );
        }
    }

    async fn drop_part(&self, name: String) -> Option<StoreError> {
        let removal = async {
            let place = self.place(&name)?;
            let result = self
                .table
                .client
                .delete_item()
                .table_name(&*self.table.name)
                .key(PK, AttributeValue::S(name.clone()))
                .customize()
                .config_override(self.table.write_once(&place, Deadline::NONE)?)
                .send()
                .await;
            written(&place, result)
        };
        removal.await.err()
    }
}

fn may_have_applied(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unavailable {
            may_have_applied: true,
            ..
        }
    )
}

/// Pieces of at most [`MOST`] bytes, cut between characters.
fn cut(data: &str) -> Vec<String> {
    let (mut parts, mut left) = (Vec::new(), data);
    while left.len() > MOST {
        let mut end = MOST;
        while !left.is_char_boundary(end) {
            end -= 1;
        }
        let (part, rest) = left.split_at(end);
        parts.push(part.to_owned());
        left = rest;
    }
    parts.push(left.to_owned());
    parts
}

fn digest(data: &str) -> String {
    let digest = Sha256::digest(data);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The version of a main row, and what it holds of its text.
fn main_row(place: &Place, row: &Item) -> Result<(u64, Content), StoreError> {
    let version = integer(place, row, VER, "the version of a checkpoint");
    let content = match row.get(DATA) {
        Some(AttributeValue::S(data)) => Content::Whole(data.clone()),
        None if row.contains_key(PARTS) => Content::Parts(Parts {
            token: text(place, row, TOK, "the name of a checkpoint's parts")?.to_owned(),
            count: integer(place, row, PARTS, "how many parts a checkpoint has")?,
            digest: text(place, row, SUM, "the digest of a checkpoint's text")?.to_owned(),
        }),
        _ => return Err(wrong_shape(place, row, DATA, "the text of a checkpoint")),
    };
    Ok((version?, content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::any_rows::{holds, look_at};

    #[test]
    fn text_is_cut_between_characters_and_nothing_is_left_out() {
        for char in ["a", "é", "€", "🦀"] {
            for bytes in [MOST + 1, 2 * MOST, 2 * MOST + 5] {
                let data = format!("x{}", char.repeat(bytes / char.len()));
                let parts = cut(&data);
                assert_eq!(parts.concat(), data);
                assert!(parts.iter().all(|part| (1..=MOST).contains(&part.len())));
                assert!((2..=3).contains(&parts.len()));
            }
        }
    }

    #[test]
    fn no_row_is_taken_for_another_checkpoint() {
        let place = Place::table("Deduper", "markers");
        let row = |rest: &[(&str, AttributeValue)]| {
            let mut row = Item::from([
                (PK.to_owned(), AttributeValue::S("likes/run/".into())),
                (VER.to_owned(), number(u64::MAX)),
            ]);
            let rest = rest.iter().cloned();
            row.extend(rest.map(|(name, value)| (name.to_owned(), value)));
            row
        };
        let text = |text: &str| AttributeValue::S(text.into());
        let whole = row(&[(DATA, text("{}"))]);
        let parts = row(&[
            (TOK, text("0123456789abcdef")),
            (PARTS, number(3)),
            (SUM, text("d1935d")),
        ]);
        look_at(&[whole, parts], &[], |row| {
            let Ok((version, content)) = main_row(&place, row) else {
                return false;
            };
            let says = match content {
                Content::Whole(data) => vec![(DATA, AttributeValue::S(data))],
                Content::Parts(parts) => vec![
                    (TOK, AttributeValue::S(parts.token)),
                    (PARTS, number(parts.count)),
                    (SUM, AttributeValue::S(parts.digest)),
                ],
            };
            for (name, value) in says.iter().chain([&(VER, number(version))]) {
                assert!(holds(row, name, Some(value)), "{row:?}");
            }
            true
        });
    }
}
