//! A text before and after hostile documents, in a browser: it is visible, and above or below all
//! other text.
//!
//! The pictures stay under `target/text_browser`. `docs/text.md` says what a sender can still do.

use crate::lab;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use copyist::text::{Disclaimer, SignedPolicy, Text, Texts, apply, edit};

const WORDS: &str = "From outside: be careful with links.";

const HTML: &str = "<table width=\"100%\" bgcolor=\"#ffeeaa\"><tr><td style=\"padding:4px;color:#900\">\
     <p><b>From outside:</b> be careful <i>with</i> links.</p></td></tr></table>";

/// Documents that hide what stands before or in them, each with its name.
const DOCUMENTS: [(&str, &str); 44] = [
    // Where a body seems to begin.
    (
        "body-in-hidden-div",
        "<p>Pay here</p><div style=\"display:none\"><html><head></head><body>x</div>",
    ),
    (
        "head-behind-table",
        "<table><tr><td>Pay here</td></tr></table><head><meta name=x></head><p>y",
    ),
    (
        "body-behind-text",
        "Pay here<body style=\"display:block\"><p>y",
    ),
    (
        "body-in-comment",
        "<!-- <html><head></head><body> --><p>Pay here</p><!-- </body> -->",
    ),
    (
        "body-in-empty-comment",
        "<!--><p>Pay here</p><body><!-- --><p>x",
    ),
    (
        "body-in-script",
        "<script>var x = '<body>';</script><p>Pay here</p>",
    ),
    (
        "body-in-style",
        "<style>/* <body> </head> */ p{}</style><p>Pay here</p>",
    ),
    (
        "body-in-title",
        "<title><body></title><p>Pay here</p><body class=x>",
    ),
    (
        "body-in-attribute",
        "<p title='<body><div hidden>'>Pay here</p>",
    ),
    (
        "body-in-textarea",
        "<p>Pay here</p><textarea style=\"display:none\"><body></textarea>",
    ),
    (
        "body-in-template",
        "<template><body></template><p>Pay here</p><template><body>",
    ),
    (
        "body-in-unclosed-template",
        "<p>Pay here</p><template><head></head><body>x",
    ),
    (
        "template-in-head",
        "<head><template><p>x</template></head><body><p>Pay here",
    ),
    (
        "body-in-noscript",
        "<p>Pay here<noscript style=\"display:none\"><body></noscript>",
    ),
    (
        "noscript-in-head",
        "<head><noscript><p>Pay here</p></noscript></head><body><p>y",
    ),
    (
        "noscript-first",
        "<noscript>Pay here</noscript><body><p>Pay here",
    ),
    (
        "two-documents",
        "<html><body><p>Pay here</p></body></html><html><head></head><body class=x><p>y</p></body></html>",
    ),
    (
        "head-in-svg",
        "<svg width=200 height=20><text y=15>Pay here</text><desc><head></head><body></desc></svg><p>y",
    ),
    (
        "body-in-math",
        "<math><mtext>Pay here</mtext><annotation-xml><body></annotation-xml></math>",
    ),
    ("plaintext", "<p>Pay here</p><plaintext><html><body>"),
    (
        "select-first",
        "<select><option>Pay here<body></select><p>Pay here",
    ),
    (
        "foster-parent",
        "<table>Pay here<tr><td>x<body></td></tr></table>",
    ),
    ("xmp-first", "<xmp>Pay here <body></xmp>"),
    (
        "frameset-behind-text",
        "<p>Pay here</p><frameset><frame></frameset>",
    ),
    (
        "body-end-first",
        "</body></html><p>Pay here</p><body style=\"color:#000\">",
    ),
    (
        "doctype-and-comments",
        "<!-- a --><!DOCTYPE html><!-- b --><html><!-- c --><head><!-- d --></head><!-- e --><p>Pay here",
    ),
    // What style sheets say.
    (
        "everything-hidden",
        "<style>*{display:none!important}html,body,.x{display:block!important}</style><div class=x>Pay here</div>",
    ),
    (
        "first-child-hidden",
        "<style>body>*:first-child,body>*:first-child *{display:none!important}</style><body><p>Pay here",
    ),
    (
        "not-of-a-class",
        "<style>body :not(.x){visibility:hidden!important;opacity:0!important}</style><body><p class=x>Pay here",
    ),
    (
        "div-far-away",
        "<style>div,table{position:absolute!important;left:-9999px!important;top:-9999px!important}</style><body><p>Pay here",
    ),
    (
        "div-without-height",
        "<style>div,table,td,p.y{height:0!important;max-height:0!important;overflow:hidden!important;line-height:0!important}</style><body><h1>Pay here",
    ),
    (
        "white-on-white",
        "<style>body{background:#fff}*{color:#fff!important;-webkit-text-fill-color:#fff!important}.x{color:#000!important;-webkit-text-fill-color:#000!important}</style><body><p class=x>Pay here",
    ),
    (
        "no-letters",
        "<style>*{font-size:0!important;letter-spacing:-1em!important;text-indent:-9999px!important}.x{font-size:16px!important;letter-spacing:0!important;text-indent:0!important}</style><body><p class=x>Pay here",
    ),
    (
        "transformed",
        "<style>body *{transform:scale(0)!important;scale:0!important;rotate:90deg!important;translate:-9999px!important}.x{transform:none!important;scale:1!important;rotate:0deg!important;translate:0!important}</style><body><p class=x>Pay here",
    ),
    (
        "clipped",
        "<style>body *{clip-path:inset(50%)!important;mask:linear-gradient(transparent,transparent)!important;clip:rect(0,0,0,0)!important;filter:opacity(0)!important}.x{clip-path:none!important;mask:none!important;filter:none!important}</style><body><p class=x>Pay here",
    ),
    (
        "animated",
        "<style>@keyframes k{to,from{opacity:0;visibility:hidden;font-size:0}}body *{animation:k 1s forwards!important}.x{animation:none!important}</style><body><p class=x>Pay here",
    ),
    (
        "transition",
        "<style>body *{transition:all 9999s 9999s!important}.x{transition:none!important}</style><body><p class=x>Pay here",
    ),
    (
        "contents-skipped",
        "<style>body *{content-visibility:hidden!important;contain:strict!important;zoom:0.01!important}.x{content-visibility:visible!important;contain:none!important;zoom:1!important}</style><body><p class=x>Pay here",
    ),
    (
        "ordered-below",
        "<style>body{display:flex;flex-direction:column}body *{order:9!important}.x{order:0!important}</style><body><p class=x>Pay here",
    ),
    (
        "floated-away",
        "<style>body *{float:right!important;margin:0 -9999px 0 0!important;width:1px!important}.x{float:none!important;margin:0!important;width:auto!important}</style><body><p class=x>Pay here",
    ),
    (
        "covered",
        "<body><div style=\"position:absolute;top:0;left:0;width:100%;height:300px;background:#fff;z-index:2147483646\"><br><br><br><br><br><br>Pay here</div>",
    ),
    (
        "pulled-up",
        "<body><div style=\"margin-top:-30px;background:#fff;height:200px\"><br><br><br>Pay here</div>",
    ),
    (
        "dialog",
        "<body><dialog open style=\"top:0;width:100%;height:200px;margin:0\"><br><br><br><br>Pay here</dialog>",
    ),
    (
        "first-letters",
        "<style>*::first-line{font-size:0!important;color:transparent!important}*::first-letter{font-size:0}</style><body><ul><li>Pay here",
    ),
];

/// Documents at whose end a text would be part of something, or of nothing, each with its name.
const ENDS: [(&str, &str); 51] = [
    ("open-link", "<p>Hello <a href=\"u\">pay here"),
    (
        "link-around-a-table",
        "<a name=x><table><tr><td><a href=u>Pay here</a></td></tr></table>",
    ),
    (
        "link-in-a-cell",
        "<a href=u><table><tr><td>Hello <a href=v>pay here</table>",
    ),
    (
        "cut-in-a-link",
        "<p>Hello <a href=\"https://elsewhere.test/",
    ),
    ("cut-in-a-tag", "<p>Hello <b style='color"),
    ("cut-before-a-name", "<p>Hello <"),
    ("open-table", "<table><tr><td>Hello"),
    (
        "open-table-in-a-table",
        "<table><tr><td>Hello<table><tr><td>x</table>",
    ),
    ("open-row", "<table><tr><td>Hello</td></tr><tr>"),
    ("text-in-a-table", "<table>Hello<tr><td>x<div>y"),
    ("open-comment", "<p>Hello <!-- x"),
    ("comment-cut-at-its-start", "<p>Hello <!--"),
    (
        "comment-for-outlook",
        "<p>Hello <!--[if mso]><table><tr><td>",
    ),
    ("comment-that-ends-at-once", "<p>Hello <!--><a href=u>x"),
    ("open-script", "<p>Hello <script>'</body>'"),
    ("open-style", "<p>Hello <style>p { color: red"),
    ("open-title", "<p>Hello <title>x"),
    ("open-field", "<p>Hello <textarea>x"),
    ("open-list", "<p>Hello <select><option>x<option>y"),
    ("open-choice", "<p>Hello <option hidden>x"),
    ("open-button", "<p>Hello <button>x<h1>y</h1>"),
    ("hidden-block", "<p>Hello <div style=\"display:none\">x"),
    (
        "hidden-span-with-a-block",
        "<p>Hello</p><span style=\"DISPLAY: none\"><div>x",
    ),
    ("hidden-attribute", "<p>Hello</p><section hidden><div>x"),
    (
        "hidden-paragraph",
        "<div>Hello</div><p style='visibility:hidden'>x",
    ),
    ("open-svg", "<p>Hello <svg width=9 height=9><text>x"),
    (
        "svg-with-html",
        "<p>Hello <svg width=9 height=9><foreignObject><h2>x",
    ),
    (
        "svg-with-a-title",
        "<p>Hello <svg width=9 height=9><title><b>x",
    ),
    ("open-math", "<p>Hello <math><mtext>x"),
    ("open-template", "<p>Hello <template><div>x"),
    (
        "template-in-a-template",
        "<p>Hello <template><template>x</template>",
    ),
    (
        "open-details",
        "<p>Hello <details><summary>x</summary><div>y",
    ),
    ("open-dialog", "<p>Hello <dialog><div>x"),
    ("open-video", "<p>Hello <video><ul><li><p>x<li>y"),
    ("open-audio", "<p>Hello <audio><section>x"),
    ("open-canvas", "<p>Hello <canvas><div>x"),
    (
        "open-object",
        "<p>Hello <object data=\"data:text/plain,x\"><div>y",
    ),
    ("open-marquee", "<p>Hello <marquee><div>x"),
    ("open-progress", "<p>Hello <progress><div>x"),
    ("open-choices", "<p>Hello <datalist><option>x"),
    ("open-frame", "<p>Hello <iframe>x"),
    ("open-noscript", "<p>Hello <noscript><div>x"),
    ("noscript-with-a-comment", "<p>Hello <noscript><!-- x"),
    ("open-ruby", "<p>Hello <ruby>x<rp>y"),
    ("open-xmp", "<p>Hello <xmp>x"),
    ("body-end-first", "</body></html><p>Hello"),
    (
        "two-documents",
        "<html><body>Hello</body></html><html><body><p>x</body></html>",
    ),
    (
        "body-end-in-a-comment",
        "<body>Hello<!-- </body> --><p>x</body>",
    ),
    (
        "body-end-in-an-attribute",
        "<body>Hello<p title=\"</body>\">x</body>",
    ),
    (
        "body-end-in-a-field",
        "<body>Hello<textarea></body></textarea><p>x",
    ),
    (
        "frameset-behind-text",
        "<p>Hello</p><frameset><frame></frameset>",
    ),
];

/// Where a text is put.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

fn texts(wording: &Disclaimer, side: Side) -> Texts {
    let text: Option<Arc<Text>> = wording.for_sender(&[]).expect("fixed");
    let (prepend, append) = match side {
        Side::Before => (text, None),
        Side::After => (None, text),
    };
    Texts { prepend, append }
}

/// Puts the text before or after each document, and has a browser show what that is.
fn show(kind: &str, side: Side, wording: &Disclaimer, left_out: &[&str]) {
    let documents: &[(&str, &str)] = match side {
        Side::Before => &DOCUMENTS,
        Side::After => &ENDS,
    };
    let place = target().join(kind);
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).expect("a directory");
    for (name, document) in documents {
        if left_out.contains(name) {
            continue;
        }
        let header = "MIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n\r\n";
        let message = format!("{header}{document}");
        let edited = edit(
            message.as_bytes(),
            &texts(wording, side),
            SignedPolicy::Skip,
        )
        .expect(name);
        let edited = apply(message.as_bytes(), &edited.splices);
        fs::write(place.join(format!("{name}.html")), &edited[header.len()..]).expect("written");
    }
    let mut driven = Command::new(lab::need("python3", "python3"));
    driven
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text_browser/drive.py"))
        .arg(lab::need("chromium", "chromium"))
        .arg(&place)
        .arg(WORDS)
        .arg(if side == Side::Before {
            "above"
        } else {
            "below"
        });
    let output = driven.output().expect("python3 runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let unseen: Vec<&str> = said
        .lines()
        .filter(|line| !line.ends_with(": seen"))
        .collect();
    assert!(
        output.status.success(),
        "{kind}: {unseen:#?}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!(
        "{kind}: seen in {} of {}",
        said.lines().count(),
        said.lines().count()
    );
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("../text_browser")
}

#[test]
fn a_plain_text_is_seen_above_hostile_documents() {
    let wording = Disclaimer::new(Some(WORDS), None, false).expect("sound");
    show("plain", Side::Before, &wording, &[]);
}

#[test]
fn an_html_text_is_seen_above_hostile_documents() {
    let wording = Disclaimer::new(Some(WORDS), Some(HTML), false).expect("sound");
    // The first lines of its own blocks are the document's to style.
    show("html", Side::Before, &wording, &["first-letters"]);
}

#[test]
fn a_text_is_seen_below_documents_that_are_not_finished() {
    let wording = Disclaimer::new(Some(WORDS), None, false).expect("sound");
    show("plain-after", Side::After, &wording, &[]);
}

#[test]
fn an_html_text_is_seen_below_documents_that_are_not_finished() {
    let wording = Disclaimer::new(Some(WORDS), Some(HTML), false).expect("sound");
    show("html-after", Side::After, &wording, &[]);
}
