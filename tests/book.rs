//! The texts of the repository: their links lead somewhere, the book has all chapters, the listings of all of
//! them are tested, and the tests that they name exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{
    BrokenLink, CodeBlockKind, CowStr, Event, LinkType, Options, Parser, Tag, TagEnd,
};

// ---- what there is -------------------------------------------------------------------------------

/// One text, as far as others can refer to it, and it to others.
#[derive(Default)]
struct Text {
    /// The ids of the headings.
    anchors: BTreeSet<String>,
    /// Where links and pictures point.
    links: Vec<String>,
    /// What follows the opening fence of each listing.
    listings: Vec<String>,
}

/// What the destination of a link begins with whose reference `[…]: …` is missing.
const UNDEFINED: &str = "undefined reference ";

impl Text {
    fn parse(source: &str) -> Self {
        let mut text = Text::default();
        let mut heading: Option<String> = None;
        // Text in brackets may be just that, but hardly where it begins with a letter.
        let missing = |link: BrokenLink<'_>| {
            let meant = link.link_type != LinkType::Shortcut
                || link.reference.starts_with(char::is_alphabetic);
            meant.then(|| (CowStr::from(format!("{UNDEFINED}{}", link.reference)), "".into()))
        };
        // As mdBook has them.
        let options = Options::ENABLE_TABLES
            | Options::ENABLE_FOOTNOTES
            | Options::ENABLE_STRIKETHROUGH
            | Options::ENABLE_TASKLISTS
            | Options::ENABLE_SMART_PUNCTUATION;
        for event in Parser::new_with_broken_link_callback(source, options, Some(missing)) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let id = id(&heading.take().expect("the heading has begun"));
                    let again = (1..).map(|n| format!("{id}-{n}"));
                    let mut ids = std::iter::once(id.clone()).chain(again);
                    let id = ids.find(|id| !text.anchors.contains(id)).expect("endless");
                    text.anchors.insert(id);
                }
                Event::Text(part) | Event::Code(part) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&part);
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    text.links.push(dest_url.into_string());
                }
                Event::Start(Tag::CodeBlock(kind)) => text.listings.push(match kind {
                    CodeBlockKind::Fenced(info) => info.into_string(),
                    CodeBlockKind::Indented => String::new(),
                }),
                _ => {}
            }
        }
        text
    }
}

/// The id that mdBook gives to a heading; that of GitHub is the same for all of ours.
fn id(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept =
        kept.chars().filter(|c| c.is_alphanumeric() || c.is_whitespace() || "_-".contains(*c));
    kept.map(|c| if c.is_whitespace() { '-' } else { c }).collect()
}

/// The folder of the repository: this package is one of its folders.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in a folder")
}

/// The repository: the texts by their paths, and all files that they may point to.
struct Tree {
    texts: BTreeMap<PathBuf, Text>,
    files: BTreeSet<PathBuf>,
}

impl Tree {
    fn of_repository() -> Self {
        let root = root();
        let mut files = BTreeSet::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(root.join(&folder)).expect("a folder can be read") {
                let entry = entry.expect("an entry can be read");
                let path = folder.join(entry.file_name());
                let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                if !entry.file_type().expect("it has a type").is_dir() {
                    files.insert(path);
                } else if !hidden && path != Path::new("target") {
                    folders.push(path);
                }
            }
        }
        let texts = files.iter().filter(|file| file.extension().is_some_and(|e| e == "md"));
        let texts = texts.map(|file| {
            let source = fs::read_to_string(root.join(file)).expect("a text can be read");
            (file.clone(), Text::parse(&source))
        });
        Tree { texts: texts.collect(), files }
    }

    fn chapters(&self) -> impl Iterator<Item = &Path> {
        let texts = self.texts.keys().map(PathBuf::as_path);
        texts.filter(|path| path.starts_with("docs") && *path != Path::new(SUMMARY))
    }

    /// What is wrong with a link of the text at `from`.
    fn fault(&self, from: &Path, link: &str) -> Option<String> {
        if link.starts_with(UNDEFINED) {
            return Some(link.to_owned());
        }
        if let Some((scheme, rest)) = link.split_once("://") {
            // It is not looked for: the tests need no network.
            let host = rest.split(['/', '#', '?']).next().unwrap_or_default();
            let known = matches!(scheme, "http" | "https");
            let named = host.contains('.') && !host.starts_with('.') && !host.ends_with('.');
            let plain = |c: char| c.is_ascii_graphic() && !"<>\"{}|\\^`".contains(c);
            let good = known && named && rest.chars().all(plain);
            return (!good).then(|| format!("{link}: no address"));
        }
        let (path, anchor) = match link.split_once('#') {
            Some((path, anchor)) => (path, Some(anchor)),
            None => (link, None),
        };
        let target = if path.is_empty() {
            from.to_owned()
        } else {
            join(from.parent().expect("a file has a folder"), path)
        };
        if !self.files.contains(&target) {
            return Some(format!("{link}: no such file"));
        }
        if from.starts_with("docs") && !target.starts_with("docs") {
            return Some(format!("{link}: leads out of the book"));
        }
        let anchor = anchor?;
        let there = self.texts.get(&target).is_some_and(|text| text.anchors.contains(anchor));
        (!there).then(|| format!("{link}: no such heading"))
    }

    /// What is wrong with the links of all texts.
    fn faults(&self) -> Vec<String> {
        let of_text = |(path, text): (&PathBuf, &Text)| {
            let faults = text.links.iter().filter_map(|link| self.fault(path, link));
            faults.map(|fault| format!("{}: {fault}", path.display())).collect::<Vec<_>>()
        };
        self.texts.iter().flat_map(of_text).collect()
    }
}

const SUMMARY: &str = "docs/SUMMARY.md";

/// Whether a listing says what language it is in, and is tested if that is Rust.
fn is_clear(listing: &str) -> bool {
    !listing.is_empty() && !listing.contains("ignore")
}

/// `folder/path`, without its `..`.
fn join(folder: &Path, path: &str) -> PathBuf {
    let mut joined = PathBuf::new();
    for component in folder.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                joined.pop();
            }
            other => joined.push(other),
        }
    }
    joined
}

// ---- what must hold ------------------------------------------------------------------------------

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn all_links_lead_somewhere() {
    let tree = Tree::of_repository();
    let links = tree.texts.values().map(|text| text.links.len()).sum::<usize>();
    assert!(links > 50, "only {links} links were found");
    let faults = tree.faults();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn the_book_has_all_chapters() {
    let tree = Tree::of_repository();
    let summary = &tree.texts[Path::new(SUMMARY)];
    let listed: BTreeSet<_> =
        summary.links.iter().map(|link| Path::new("docs").join(link)).collect();
    let there: BTreeSet<_> = tree.chapters().map(Path::to_owned).collect();
    assert_eq!(listed, there);
    assert_eq!(summary.links.len(), listed.len(), "a chapter is listed twice");
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn all_listings_are_tested() {
    let tree = Tree::of_repository();
    let included = ["tests/listings.rs", "mpi/src/lib.rs"]
        .map(|file| fs::read_to_string(root().join(file)).expect("it can be read"));
    let readmes = ["README.md", "mpi/README.md"].map(Path::new);
    for path in tree.chapters().chain(readmes) {
        let path_in_code = path.to_str().expect("our names are plain").replace('\\', "/");
        let here = format!("include_str!(\"../{path_in_code}\")");
        let there = format!("include_str!(\"../../{path_in_code}\")");
        let there = there.replace("../../mpi/", "../");
        assert!(
            included[0].contains(&here) || included[1].contains(&there),
            "{path_in_code} is not among the texts of tests/listings.rs or mpi/src/lib.rs"
        );
        for listing in &tree.texts[path].listings {
            assert!(is_clear(listing), "{path_in_code}: a listing of {listing:?}");
        }
    }
}

/// In the tables that say which test stands for what.
#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn all_tests_that_are_named_exist() {
    let folder = root().join("tests");
    let text = fs::read_to_string(folder.join("README.md")).expect("a text can be read");
    let code = text.split('`').skip(1).step_by(2);
    let names: Vec<_> = code.filter_map(|code| code.split_once("::")).collect();
    assert!(names.len() > 50, "only {} names were found", names.len());
    let missing = names.into_iter().filter(|(file, test)| {
        let source = fs::read_to_string(folder.join(file).with_extension("rs"));
        !source.is_ok_and(|source| source.contains(&format!("fn {test}(")))
    });
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

// ---- the check itself ----------------------------------------------------------------------------

#[test]
fn a_broken_link_is_found() {
    let source = "
# A `code` & more: one's own, twice
# Twice
# Twice
[good](b.md) [good](#twice-1) [good](#a-code--more-ones-own-twice) [good](b.md#there) ![good](p.svg)
[good](https://example.org/a?b#c) [good](../docs/b.md) [good][ref] `[code]` [0.1.0]

[ref]: b.md

[file](c.md) [case](B.md) [heading](#twice-2) [other](b.md#twice) ![picture](q.svg)
[address](https://example) [scheme](ftp://example.org) [space](<https://example.org/a b>)
[outside](../README.md) [full][nowhere] [collapsed][] [shortcut] [not a text](p.svg#there)
";
    let other = "Text\n\nThere\n-----\n\n```rust\n# Twice\n```\n";
    let texts = [("README.md", ""), ("docs/a.md", source), ("docs/b.md", other)];
    let texts = texts.map(|(path, source)| (PathBuf::from(path), Text::parse(source)));
    let files = ["README.md", "docs/a.md", "docs/b.md", "docs/p.svg"].map(PathBuf::from);
    let tree = Tree { texts: texts.into(), files: files.into() };
    let expected = [
        "c.md: no such file",
        "B.md: no such file",
        "#twice-2: no such heading",
        "b.md#twice: no such heading",
        "q.svg: no such file",
        "https://example: no address",
        "ftp://example.org: no address",
        "https://example.org/a b: no address",
        "../README.md: leads out of the book",
        "undefined reference nowhere",
        "undefined reference collapsed",
        "undefined reference shortcut",
        "p.svg#there: no such heading",
    ];
    assert_eq!(tree.faults(), expected.map(|fault| format!("docs/a.md: {fault}")));
}

#[test]
fn a_listing_that_is_not_tested_is_found() {
    let source =
        "```rust,ignore\n```\n\n```\n```\n\n    indented\n\n```rust\n```\n\n```text\n```\n";
    let clear: Vec<_> =
        Text::parse(source).listings.iter().map(|listing| is_clear(listing)).collect();
    assert_eq!(clear, [false, false, false, true, true]);
}
