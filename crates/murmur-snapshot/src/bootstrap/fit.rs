//! Whether a source and its stream give the pipelines what they need.

use murmur_core::Pipeline;

use super::error::BootstrapError;
use crate::source::Description;

/// What a pipeline with settling items needs.
const SETTLING_NEEDS: &str = "old and new images, by which its items settle (`.settle()`)";

/// Checks that the source gives each pipeline what it needs.
pub(crate) fn check_source<T>(
    pipelines: &[Pipeline<T>],
    source_name: &str,
    description: &Description,
) -> Result<(), BootstrapError> {
    for pipeline in pipelines {
        let (pipeline, ledger) = (pipeline.name().clone(), pipeline.keeps_ledger());
        if ledger && !description.leaves_out_by.is_empty() {
            return Err(BootstrapError::LedgerOfSome {
                pipeline,
                source_name: source_name.to_owned(),
                attributes: description.leaves_out_by.clone(),
            });
        }
        if ledger && !description.consistent {
            return Err(BootstrapError::LedgerOfThePast {
                pipeline,
                source_name: source_name.to_owned(),
            });
        }
    }
    check_images(pipelines, description)
}

/// Checks that the stream carries the images that each pipeline needs.
pub(crate) fn check_images<T>(
    pipelines: &[Pipeline<T>],
    description: &Description,
) -> Result<(), BootstrapError> {
    let Some(view) = &description.stream else {
        return Ok(());
    };
    for pipeline in pipelines {
        let needs_old = pipeline.needs_old_images();
        if !view.new_images || (needs_old && !view.old_images) {
            return Err(BootstrapError::MissingImages {
                pipeline: pipeline.name().clone(),
                stream: view.arn.clone(),
                needed: match needs_old {
                    true if pipeline.settles() => SETTLING_NEEDS,
                    true => "old and new images",
                    false => "new images",
                },
            });
        }
    }
    Ok(())
}
