use murmur_state::{Place, StoreError};

/// The answers, if there is one for each that was asked for.
///
/// # Errors
///
/// [`StoreError::Setup`] naming the store and both numbers.
pub(crate) fn all_answered<A>(
    place: impl FnOnce() -> Place,
    asked: usize,
    answers: Vec<A>,
) -> Result<Vec<A>, StoreError> {
    match answers.len() == asked {
        true => Ok(answers),
        false => Err(miscounted(place(), asked, answers.len())),
    }
}

fn miscounted(place: Place, asked: usize, answered: usize) -> StoreError {
    StoreError::Setup {
        place,
        advice: format!(
            "it gave {answered} answers to {asked} entries, so that nothing tells which of them \
             are done; mend the store: one answer for each entry, in order"
        ),
        source: None,
    }
}
