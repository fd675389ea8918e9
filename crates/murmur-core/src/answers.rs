use murmur_state::StoreError;
use murmur_state::error::Place;

/// Returns the answers if there is one for each entry.
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
            "it gave {answered} answers to {asked} entries, so it is unknown which of them \
             are done; fix the store to give one answer for each entry, in order"
        ),
        source: None,
    }
}
