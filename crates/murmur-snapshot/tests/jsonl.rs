//! JSON Lines as a source.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a test's failure message"
)]

mod support;

use std::fs;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use murmur_core::{AttributeValue, Processor, ProcessorBuilder};
use murmur_snapshot::jsonl::KeyType;
use murmur_snapshot::source::Cursor;
use murmur_snapshot::{Bootstrap, BootstrapError, JsonLines, Source, SourceError, conformance};
use murmur_state::MemoryDeduper;
use support::*;
use tokio::io::{AsyncRead, BufReader, ReadBuf};

fn lines(n: u64) -> String {
    let line = |i: u64| {
        format!(
            "{{\"id\":\"o{i}\",\"customer\":\"c{}\",\"cents\":{}}}\n",
            i % 3,
            i * 7
        )
    };
    (0..n).map(line).collect()
}

/// Gives a few bytes at a time, and nothing at every other call.
struct Trickle {
    bytes: Vec<u8>,
    at: usize,
    ready: bool,
    /// Fails once this many bytes were given.
    fails_at: Option<usize>,
}

fn trickle(text: String, fails_at: Option<usize>) -> BufReader<Trickle> {
    let trickle = Trickle {
        bytes: text.into_bytes(),
        at: 0,
        ready: false,
        fails_at,
    };
    BufReader::with_capacity(16, trickle)
}

impl AsyncRead for Trickle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ready = !self.ready;
        if self.ready {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.fails_at.is_some_and(|at| self.at >= at) {
            self.fails_at = None;
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let to = (self.at + 7).min(self.bytes.len());
        buf.put_slice(&self.bytes[self.at..to]);
        self.at = to;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_reader_keeps_the_contract_of_a_source() {
    let make = || async {
        let source = JsonLines::reader("orders", trickle(lines(23), None));
        source.key(["id"]).page_size(4).build().unwrap()
    };
    conformance::source(make, 23).await;
}

#[tokio::test]
async fn a_file_keeps_the_contract_of_a_source() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.jsonl");
    // No line end at the end of the last line.
    fs::write(&path, lines(24).trim_end()).unwrap();
    let make = || async {
        JsonLines::path(&path)
            .key(["id"])
            .page_size(4)
            .build()
            .unwrap()
    };
    conformance::source(make, 24).await;
    assert_eq!(make().await.name(), "orders.jsonl");
}

#[tokio::test]
async fn dynamodb_json_keeps_the_contract_of_a_source() {
    let line = |i: u64| match i % 2 {
        0 => format!("{{\"Item\":{{\"id\":{{\"S\":\"{i}\"}},\"at\":{{\"N\":\"{i}\"}}}}}}\n"),
        _ => format!("{{\"id\":{{\"S\":\"{i}\"}},\"at\":{{\"N\":\"{i}\"}}}}\r\n"),
    };
    let text: String = (0..11).map(line).collect();
    let make = || async {
        let source = JsonLines::reader("export", io::Cursor::new(text.clone()));
        source
            .key(["id", "at"])
            .dynamodb_json()
            .page_size(3)
            .build()
            .unwrap()
    };
    conformance::source(make, 11).await;
}

#[tokio::test]
async fn bad_lines_are_counted_and_listed_by_their_number() {
    let text = "\n{\"id\":\"1\",\"customer\":\"a\",\"cents\":5}\nnonsense\n   \n\
                {\"customer\":\"a\",\"cents\":5}\n{\"id\":\"2\",\"customer\":\"a\",\"cents\":\"x\"}\n\
                {\"id\":\"3\",\"customer\":\"a\",\"cents\":6}";
    let (store, markers) = (store(), MemoryDeduper::new());
    let source = || {
        JsonLines::reader("orders", text.as_bytes())
            .key(["id"])
            .page_size(2)
            .build()
            .unwrap()
    };
    let processor = || Processor::builder([exactly_once("totals", &store, &markers)]);
    let run = |processor: ProcessorBuilder<Order>| {
        Bootstrap::builder(processor.build().unwrap(), source())
    };

    let refusing = processor().on_rejected(|rejected| async move {
        match rejected.record.event_id() {
            "line 5" => Err("no".into()),
            _ => Ok(()),
        }
    });
    let error = run(refusing).run().await.unwrap_err();
    assert!(
        matches!(&error, BootstrapError::Row { row, .. } if row == "line 5"),
        "{error}"
    );

    let report = run(processor()).run().await.unwrap();
    let (earlier, counts) = (report.earlier.counts, report.counts);
    assert_eq!((earlier.rows, earlier.rejected), (2, 1));
    assert_eq!((counts.rows, counts.rejected, counts.examined), (3, 2, 3));
    let listed: Vec<_> = report.rejected.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(listed[..2], ["line 3", "line 5"]);
    assert!(listed[2].contains("id"), "{listed:?}");
    assert!(
        report.rejected[1].reason.contains("`id`"),
        "{:?}",
        report.rejected
    );
    assert_eq!(total(&store, "a").await, Some(11));
}

#[tokio::test]
async fn numbers_arrive_as_they_were_written() {
    let text = "{\"id\":9007199254740993,\"x\":12.340}";
    let source = JsonLines::reader("n", text.as_bytes())
        .key(["id"])
        .build()
        .unwrap();
    let page = source.page(0, None, None).await.unwrap();
    assert_eq!(
        page.rows[0].item["id"],
        AttributeValue::N("9007199254740993".into())
    );
    assert_eq!(page.rows[0].item["x"], AttributeValue::N("12.340".into()));
}

#[tokio::test]
async fn a_reader_does_not_go_back_but_a_file_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.jsonl");
    fs::write(&path, lines(9)).unwrap();
    let file = JsonLines::path(&path)
        .key(["id"])
        .page_size(2)
        .build()
        .unwrap();
    let reader = JsonLines::reader("orders", io::Cursor::new(lines(9)))
        .key(["id"])
        .page_size(2)
        .build()
        .unwrap();
    for source in [&file, &reader] {
        let first = source.page(0, None, None).await.unwrap();
        assert_eq!(first.rows.len(), 2);
        source.page(0, first.next.as_ref(), None).await.unwrap();
    }
    assert_eq!(file.page(0, None, None).await.unwrap().rows.len(), 2);
    let error = reader.page(0, None, None).await.unwrap_err();
    assert!(matches!(error, SourceError::Setup { .. }), "{error}");
    assert!(error.to_string().contains("`orders`"), "{error}");
}

#[tokio::test]
async fn a_broken_connection_is_not_taken_for_the_end() {
    let source = JsonLines::reader("orders", trickle(lines(20), Some(200)))
        .key(["id"])
        .build()
        .unwrap();
    let error = source.page(0, None, None).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let error = source.page(0, None, None).await.unwrap_err();
    assert!(!error.is_retryable(), "it cannot be begun again: {error}");
}

#[tokio::test]
async fn files_that_cannot_be_read_say_why() {
    let folder = tempfile::tempdir().unwrap();
    for (path, wanted) in [
        (folder.path().join("none"), "no such file"),
        (folder.path().to_owned(), "directory"),
    ] {
        let source = JsonLines::path(&path).key(["id"]).build().unwrap();
        let error = source.page(0, None, None).await.unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(
            error.to_string().contains(&*path.to_string_lossy()),
            "{error}"
        );
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn cursors_that_lead_nowhere_are_errors() {
    let source = || {
        JsonLines::reader("orders", io::Cursor::new(lines(5)))
            .key(["id"])
            .build()
            .unwrap()
    };
    for cursor in ["6", "x", "-1", ""] {
        let error = source()
            .page(0, Some(&Cursor::new(cursor)), None)
            .await
            .unwrap_err();
        assert!(
            matches!(error, SourceError::Cursor { .. }),
            "{cursor}: {error}"
        );
    }
    let end = source()
        .page(0, Some(&Cursor::new("5")), None)
        .await
        .unwrap();
    assert_eq!((end.rows.len(), end.next), (0, None));
    assert!(source().page(1, None, None).await.is_err());
}

#[tokio::test]
async fn options_are_checked_and_named() {
    let source = || JsonLines::reader("orders", io::Cursor::new(lines(5)));
    assert_eq!(source().build().unwrap_err().option, "key");
    assert_eq!(source().key([""]).build().unwrap_err().option, "key");
    assert_eq!(
        source()
            .key(["id"])
            .page_size(0)
            .build()
            .unwrap_err()
            .option,
        "page_size"
    );
    assert_eq!(
        source().key(["id"]).name("").build().unwrap_err().option,
        "name"
    );
    assert_eq!(
        source().key(["id"]).name("other").build().unwrap().name(),
        "other"
    );
    let page = source()
        .key(["id"])
        .build()
        .unwrap()
        .page(0, None, None)
        .await
        .unwrap();
    assert_eq!(page.rows.len(), 5);
    let page = source()
        .key(["id"])
        .page_size(3)
        .build()
        .unwrap()
        .page(0, None, None)
        .await
        .unwrap();
    assert_eq!(page.rows.len(), 3);
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut encoder, text).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn what_is_gzipped_is_read_whole_of_however_many_members_and_blank_lines() {
    let (head, tail) = (lines(20), lines(23)[lines(20).len()..].to_owned());
    let mut bytes = gzip(format!("{head}\n\n").as_bytes());
    bytes.extend(gzip(format!("\n{tail}").as_bytes()));
    let folder = tempfile::tempdir().unwrap();
    // Whatever it is called.
    let path = folder.path().join("orders.json");
    fs::write(&path, &bytes).unwrap();
    let make = || async {
        let source = JsonLines::path(&path);
        source.key(["id"]).page_size(4).build().unwrap()
    };
    conformance::source(make, 23).await;

    // A few bytes at a time.
    let trickle = Trickle {
        bytes: bytes.clone(),
        at: 0,
        ready: false,
        fails_at: None,
    };
    let source = JsonLines::reader("orders", BufReader::with_capacity(16, trickle));
    let source = source.key(["id"]).build().unwrap();
    let page = source.page(0, None, None).await.unwrap();
    assert_eq!((page.rows.len(), page.bad.len()), (23, 0));

    // Cut off, or followed by what is none.
    let mut longer = bytes.clone();
    longer.extend(b"more");
    for damaged in [bytes[..bytes.len() - 9].to_vec(), longer] {
        let source = JsonLines::reader("orders", io::Cursor::new(damaged));
        let source = source.key(["id"]).build().unwrap();
        let error = source.page(0, None, None).await.unwrap_err();
        assert!(error.to_string().contains("damaged or cut off"), "{error}");
    }
}

#[tokio::test]
async fn a_file_in_another_form_is_named_and_nothing_is_counted() {
    let utf16 = |text: &str, mark: bool| -> Vec<u8> {
        let units = mark
            .then_some(0xfeff)
            .into_iter()
            .chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect()
    };
    let plain = "{\"id\":\"o-1\",\"customer\":\"c\",\"cents\":1}\n";
    let change = r#"{"Metadata":{"WriteTimestampMicros":{"N":"1767225600000001"}},"Keys":{"id":{"S":"o-1"}},"NewImage":{"id":{"S":"o-1"},"customer":{"S":"c"},"cents":{"N":"7"}}}"#;
    let deletion = r#"{"Metadata":{"WriteTimestampMicros":{"N":"1767225600000003"}},"Keys":{"id":{"S":"o-3"}}}"#;
    let item = r#"{"Item":{"id":{"S":"o-1"},"customer":{"S":"c"},"cents":{"N":"7"}}}"#;
    let array = r#"[{"id":{"S":"o-1"}},{"id":{"S":"o-2"}}]"#;
    let ion = "$ion_1_0 {Item:{id:\"o-1\"}}";
    let cases: Vec<(Vec<u8>, bool, &str)> = vec![
        (change.into(), true, "incremental export"),
        (
            format!("\n{deletion}\n{change}").into(),
            true,
            "incremental export",
        ),
        (change.into(), false, "incremental export"),
        (gzip(change.as_bytes()), true, "incremental export"),
        (array.into(), true, "one JSON array"),
        (
            gzip(format!("\n [{plain}]").as_bytes()),
            false,
            "one JSON array",
        ),
        (gzip(&gzip(plain.as_bytes())), false, "gzip within gzip"),
        (
            [b"\xef\xbb\xbf", plain.as_bytes()].concat(),
            false,
            "byte order mark",
        ),
        (utf16(plain, true), false, "UTF-16"),
        (utf16(plain, false), false, "UTF-16"),
        (ion.into(), true, "Ion"),
        (b"\xe0\x01\x00\xea\xee\x81".to_vec(), true, "binary Ion"),
        (item.into(), false, "`dynamodb_json`"),
        (r#"{"id":{"S":"o-1"}}"#.into(), false, "`dynamodb_json`"),
    ];
    for (bytes, dynamodb, wanted) in cases {
        let (store, markers) = (store(), MemoryDeduper::new());
        let source = JsonLines::reader("orders", io::Cursor::new(bytes)).key(["id"]);
        let source = match dynamodb {
            true => source.dynamodb_json(),
            false => source,
        };
        let run = Bootstrap::builder(
            Processor::new([exactly_once("totals", &store, &markers)]).unwrap(),
            source.build().unwrap(),
        );
        let error = run.accept_all_rejected().run().await.unwrap_err();
        let BootstrapError::Source(source) = &error else {
            panic!("{wanted}: {error}");
        };
        assert!(source.to_string().contains(wanted), "{wanted}: {source}");
        assert!(source.to_string().contains("`orders`"), "{source}");
        assert!(totals(&store).is_empty());
    }
}

#[tokio::test]
async fn items_that_only_look_like_another_form_are_items() {
    let odd = [
        (
            r#"{"id":"1","Metadata":{"WriteTimestampMicros":1},"Keys":{}}"#,
            false,
        ),
        (
            r#"{"id":{"S":"1"},"Metadata":{"S":"x"},"Keys":{"S":"y"}}"#,
            true,
        ),
        (r#"{"id":"1","Item":{"id":{"S":"7"}}}"#, false),
    ];
    for (line, dynamodb) in odd {
        let source = JsonLines::reader("orders", io::Cursor::new(line)).key(["id"]);
        let source = match dynamodb {
            true => source.dynamodb_json(),
            false => source,
        };
        let page = source.build().unwrap().page(0, None, None).await.unwrap();
        assert_eq!((page.rows.len(), page.bad.len()), (1, 0), "{line}");
    }
}

#[tokio::test]
async fn a_binary_key_of_plain_json_is_declared_and_part_of_the_settings() {
    let text = "{\"id\":\"AQI=\",\"n\":1}\n{\"id\":\"?\",\"n\":2}";
    let source = JsonLines::reader("orders", io::Cursor::new(text));
    let source = source.typed_key([("id", KeyType::Binary)]).build().unwrap();
    let page = source.page(0, None, None).await.unwrap();
    assert_eq!(page.rows[0].item["id"], AttributeValue::B(vec![1, 2]));
    assert_eq!(page.bad.len(), 1);
    let settings = source.describe().await.unwrap().settings;
    assert!(settings.contains("id (binary)"), "{settings}");
}

#[tokio::test]
async fn a_cursor_that_was_not_given_out_is_refused() {
    for text in ["+1", "01", " 1", "1.0", "", "-1", "18446744073709551616"] {
        let source = JsonLines::reader("orders", io::Cursor::new(lines(5)));
        let source = source.key(["id"]).build().unwrap();
        let page = source.page(0, Some(&Cursor::new(text)), None).await;
        assert!(
            matches!(page, Err(SourceError::Cursor { .. })),
            "`{text}`: {page:?}"
        );
    }
}
