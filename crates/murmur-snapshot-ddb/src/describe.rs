//! Describes what is to be scanned, and checks that it can be.

use murmur_snapshot::SourceError;
use murmur_snapshot::source::{Description, StreamView};
use murmur_streams::StreamViewType;

use crate::error;
use crate::handoff;
use crate::request;
use crate::settings::ScanSettings;
use crate::table::{self, Table};

pub(crate) async fn describe(scan: &ScanSettings) -> Result<Description, SourceError> {
    let table = table::describe(scan).await?;
    let mut description = Description::new(settings(scan, &table)?);
    description.rows = table.rows;
    description.table_arn = Some(table.arn.clone()).filter(|arn| !arn.is_empty());
    description.provisioned_read_units = table.provisioned_read_units;
    description.consistent = scan.consistent;
    if let Some(filter) = &scan.filter {
        let mut attributes = filter.attributes();
        attributes.retain(|name| !table.has_key(name));
        description.leaves_out_by = attributes.into_iter().collect();
        // A filter that the server refuses must be found before anything is written.
        request::scan(scan, 0, None, 1).await?;
    }
    description.stream = handoff::stream(scan, &table).await?.map(|stream| {
        use StreamViewType::{NewAndOldImages, NewImage, OldImage};
        let view = &stream.stream_view_type;
        let new_images = matches!(view, NewImage | NewAndOldImages);
        let old_images = matches!(view, OldImage | NewAndOldImages);
        StreamView::new(stream.stream_arn.as_str(), new_images, old_images)
    });
    Ok(description)
}

fn settings(scan: &ScanSettings, table: &Table) -> Result<String, SourceError> {
    let (place, arn, segments) = (scan.place(), &table.arn, scan.segments);
    let mut settings = format!("{place} ({arn}), {segments} segments");
    if let Some(filter) = &scan.filter {
        let filter = filter.settings().map_err(|unknown| {
            error::setup(
                scan,
                format!("a value of its filter cannot be used: {unknown}"),
            )
        })?;
        settings = format!("{settings}, {filter}");
    }
    Ok(settings)
}
