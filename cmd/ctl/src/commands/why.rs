//! `why`: who keeps an image, and when it may go.

use imagevol_api::daemon::{HolderState, WhyHolder, WhyImage, WhyReport};
use jiff::Timestamp;

use super::prefetch::until;
use crate::cli::Why;
use crate::error::Result;
use crate::session::{self, Session};
use crate::table::{self, DESCRIBE};
use crate::text::{self, Clock, human_size};

/// `why`.
pub(super) async fn run(session: &Session, arguments: &Why) -> Result<()> {
    let path = format!("/images/why?name={}", text::url_part(&arguments.name));
    let report: WhyReport = session.client.get(&path).await?;
    match arguments.output {
        Some(format) => session::print(&format.render(&report)?),
        None => session::print(&shown(&report, &session.clock)),
    }
}

fn shown(report: &WhyReport, clock: &Clock) -> String {
    let mut blocks = Vec::new();
    if let Some(content) = &report.content {
        let leased = if content.leased { ", needed by a pull under way" } else { "" };
        let kind = text::line(&content.kind);
        blocks.push(format!("{} is a {kind} of {} on disk{leased}.\n", content.digest, human_size(content.size)));
        if report.images.is_empty() {
            blocks.push("No image is made of it: it goes a day after its download.\n".to_owned());
        }
    }
    blocks.extend(report.images.iter().map(|image| block(image, clock)));
    if !report.wanted.is_empty() {
        blocks.push(table::align(&format!("Not here, but wanted by:\n{}", holders(&report.wanted, clock)), DESCRIBE));
    }
    blocks.join("\n")
}

fn block(image: &WhyImage, clock: &Clock) -> String {
    let mut text = String::new();
    let mut field =
        |label: &str, value: &str| text::append(&mut text, format_args!("{label}:\t{}\n", text::line(value)));
    field("Image", &image.id.to_string());
    for (index, name) in image.names.iter().enumerate() {
        field(if index == 0 { "Names" } else { "" }, name);
    }
    let freed = human_size(image.freed_bytes);
    field("Size", &format!("{}, of which its removal frees {freed}", human_size(image.size)));
    field("First Seen", &until(Some(&image.first_seen), clock));
    field("Last Used", &last_used(image, clock));
    field("Mounted", if image.mounted { "True" } else { "False" });
    for (index, pin) in image.pins.iter().enumerate() {
        field(if index == 0 { "Pinned By" } else { "" }, pin);
    }
    field("May Go", &may_go(image, clock));
    // An empty label continues the line before.
    let mut text = text.replace("\n:\t", "\n\t");
    if !image.holders.is_empty() {
        text::append(&mut text, format_args!("Kept By:\n{}", holders(&image.holders, clock)));
    }
    table::align(&text, DESCRIBE)
}

fn last_used(image: &WhyImage, clock: &Clock) -> String {
    match &image.last_used {
        _ if !image.holders.is_empty() => "now".to_owned(),
        Some(time) => until(Some(time), clock),
        None => "never".to_owned(),
    }
}

/// Nobody takes it while it is kept; then its age decides, and whether somebody asks for space.
fn may_go(image: &WhyImage, clock: &Clock) -> String {
    let Some(time) = &image.not_before else { return "not while it is kept".to_owned() };
    match time.parse::<Timestamp>() {
        Ok(moment) if moment > clock.now => format!("{}, when space is needed", until(Some(time), clock)),
        Ok(_) => "now, when space is needed".to_owned(),
        Err(_) => time.clone(),
    }
}

fn holders(holders: &[WhyHolder], clock: &Clock) -> String {
    let mut text = "  Holder\tState\tSince\tExpires\tReference\n".to_owned();
    for holder in holders {
        let state = match holder.state {
            HolderState::Wanted => "Wanted",
            HolderState::Pulling => "Pulling",
            HolderState::Held => "Held",
            HolderState::Mounted => "Mounted",
        };
        let (since, expires) = (until(Some(&holder.since), clock), until(holder.expires.as_deref(), clock));
        let cells = [&*holder.name, state, &since, &expires, &*holder.reference].map(text::line);
        text::append(&mut text, format_args!("  {}\n", cells.join("\t")));
    }
    text
}

#[cfg(test)]
mod tests {
    use imagevol_api::daemon::WhyContent;
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;

    fn report() -> WhyReport {
        let id = format!("sha256:{}", "ab".repeat(32));
        serde_json::from_value(json!({"images": [
            {"id": id, "names": ["quay.io/a:1", "quay.io/a:2"], "size": 2_000_000, "freedBytes": 500_000, "firstSeen": "1970-01-01T00:00:00Z",
             "lastUsed": "1970-01-01T00:59:00Z", "pins": ["quay.io/*"], "mounted": true, "holders": [
                {"name": "pod shop/\u{1b}web volume m", "reference": "quay.io/a:1", "state": "Mounted", "since": "1970-01-01T00:55:00Z"},
                {"name": "backup nightly", "reference": "quay.io/a:1", "state": "Held", "since": "1970-01-01T00:50:00Z", "expires": "1970-01-01T01:10:00Z"},
             ]},
        ]}))
        .unwrap()
    }

    fn clock() -> Clock {
        Clock { now: Timestamp::from_second(3600).unwrap(), zone: TimeZone::UTC }
    }

    #[test]
    fn an_image_that_is_kept() {
        let id = format!("sha256:{}", "ab".repeat(32));
        let text = format!(
            "\
Image:       {id}
Names:       quay.io/a:1
             quay.io/a:2
Size:        2MB, of which its removal frees 500kB
First Seen:  60m ago
Last Used:   now
Mounted:     True
Pinned By:   quay.io/*
May Go:      not while it is kept
Kept By:
  Holder                       State    Since    Expires  Reference
  pod shop/\\u{{1b}}web volume m  Mounted  5m ago   <none>   quay.io/a:1
  backup nightly               Held     10m ago  in 10m   quay.io/a:1
"
        );
        assert_eq!(shown(&report(), &clock()), text);
    }

    #[test]
    fn one_that_nobody_keeps_may_go() {
        let mut report = report();
        let image = report.images.first_mut().unwrap();
        (image.holders, image.pins) = (Vec::new(), Vec::new());
        image.not_before = Some("1970-01-01T00:30:00Z".to_owned());
        assert!(
            shown(&report, &clock())
                .contains("Last Used:   60s ago\nMounted:     True\nMay Go:      now, when space is needed\n")
        );
        report.images[0].not_before = Some("1970-01-01T01:00:40Z".to_owned());
        report.images[0].last_used = None;
        let text = shown(&report, &clock());
        assert!(
            text.contains("Last Used:   never\n") && text.contains("May Go:      in 40s, when space is needed\n"),
            "{text}"
        );
    }

    #[test]
    fn content_and_what_is_only_wanted() {
        let mut report = report();
        let digest = report.images[0].id.clone();
        report.wanted = report.images.remove(0).holders;
        report.content = Some(WhyContent { kind: "layer".to_owned(), digest, size: 4096, leased: true });
        let text = shown(&report, &clock());
        assert!(text.contains(" is a layer of 4.1kB on disk, needed by a pull under way.\n"), "{text}");
        assert!(
            text.contains("No image is made of it") && text.contains("Not here, but wanted by:\n  Holder"),
            "{text}"
        );
    }
}
