use super::*;

fn scan(scanner: &mut Scanner, chunk: &[u8]) -> Vec<(usize, Kind)> {
    scanner
        .feed(chunk)
        .map(|event| (event.end, event.kind))
        .collect()
}

fn kinds(text: &[u8]) -> Vec<Kind> {
    let mut scanner = Scanner::new();
    scanner.feed(text).map(|event| event.kind).collect()
}

#[test]
fn an_event_ends_after_its_blank_line_however_lines_end() {
    let cases: [(&[u8], usize); 6] = [
        (b"data: a\n\ndata: b\n\n", 9),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", 11),
        (b"data: a\r\rdata: b\r\r", 9),
        (b"data: a\r\n\ndata: b\r\n\r", 10),
        (b"data: a\n\r\ndata: b\n\r\n", 10),
        (b"data: a\n\rdata: b\n\r", 9),
    ];
    for (text, first) in cases {
        let expected = [(first, Kind::Data), (text.len(), Kind::Data)];
        assert_eq!(scan(&mut Scanner::new(), text), expected);
    }
}

#[test]
fn a_line_break_cut_in_two_is_one() {
    let mut scanner = Scanner::new();
    assert_eq!(scan(&mut scanner, b"data: a\r"), []);
    assert_eq!(scan(&mut scanner, b"\n\r"), [(2, Kind::Data)]);
    assert_eq!(scan(&mut scanner, b"\ndata: b\r"), []);
    // A second line break, not the rest of the first.
    assert_eq!(scan(&mut scanner, b"\r"), [(1, Kind::Data)]);
    assert_eq!(scan(&mut scanner, b""), []);
    assert_eq!(
        scan(&mut scanner, b"\ndata: [DONE]\n\n"),
        [(15, Kind::Done)]
    );
}

#[test]
fn only_data_makes_an_event_count() {
    let free: [&[u8]; 8] = [
        b"\n\n\n",
        b": comment\n\n",
        b"event: x\nid: 1\nretry: 5\n\n",
        b"data:\n\n",
        b"data\n\n",
        b"data: \n\n",
        b"datax: 1\n\n data: 1\n\n",
        b"Data: 1\n\n",
    ];
    for text in free {
        assert_eq!(kinds(text), [], "{}", text.escape_ascii());
    }
    let counted: [&[u8]; 7] = [
        b"data:x\n\n",
        b"data:  \n\n",
        b"data\ndata\n\n",
        b"data: a\ndata: b\n\n",
        b"data:\ndata:\n\n",
        b"event: x\ndata: y\n\n",
        b"\xef\xbb\xbfdata: x\n\n",
    ];
    for text in counted {
        assert_eq!(kinds(text), [Kind::Data], "{}", text.escape_ascii());
    }
}

#[test]
fn only_exactly_done_is_done() {
    for text in [
        &b"data: [DONE]\n\n"[..],
        b"data:[DONE]\n\n",
        b"id: 1\ndata: [DONE]\n\n",
    ] {
        assert_eq!(kinds(text), [Kind::Done], "{}", text.escape_ascii());
    }
    for text in [
        &b"data:  [DONE]\n\n"[..],
        b"data: [DONE] \n\n",
        b"data: [DONE]x\n\n",
        b"data: [DONE]                            and a long way after it\n\n",
        b"data: [DON\n\n",
        b"data: [done]\n\n",
        b"data: [DONE]\ndata: [DONE]\n\n",
        b"data\ndata: [DONE]\n\n",
        b"data: [DONE]\ndata\n\n",
    ] {
        assert_eq!(kinds(text), [Kind::Data], "{}", text.escape_ascii());
    }
}

#[test]
fn no_event_is_free_because_of_its_name() {
    for name in [
        "payment-receipt",
        "payment-need-topup",
        "payment-x",
        "session-timeout",
    ] {
        let text = format!("event: {name}\ndata: {{}}\n\n");
        assert_eq!(kinds(text.as_bytes()), [Kind::Data], "{name}");
    }
    let last_counts = b"event: payment-x\nevent: y\ndata: 1\n\ndata: 2\n\n";
    assert_eq!(kinds(last_counts), [Kind::Data, Kind::Data]);
}

#[test]
fn a_byte_order_mark_counts_only_at_the_start() {
    assert_eq!(kinds(b"\xef\xbb\xbf\n\xef\xbb\xbfdata: x\n\n"), []);
    let mut scanner = Scanner::new();
    for byte in b"\xef\xbb\xbfdata: [DONE]\n" {
        assert_eq!(scan(&mut scanner, &[*byte]), []);
    }
    assert_eq!(scan(&mut scanner, b"\n"), [(1, Kind::Done)]);
}

#[test]
fn what_is_left_unfinished_is_known() {
    let mut scanner = Scanner::new();
    let mut unfinished = |chunk: &[u8]| {
        assert_eq!(scan(&mut scanner, chunk), []);
        scanner.unfinished()
    };
    assert_eq!(unfinished(b": comment"), None);
    assert_eq!(unfinished(b"\ndat"), None);
    assert_eq!(unfinished(b"a: "), None);
    assert_eq!(unfinished(b"x"), Some(Kind::Data));
    assert_eq!(unfinished(b"\n"), Some(Kind::Data));
    assert_eq!(scan(&mut scanner, b"\ndata: [DONE]"), [(1, Kind::Data)]);
    assert_eq!(scanner.unfinished(), Some(Kind::Done));
}

#[test]
fn who_stops_at_an_event_goes_on_after_it() {
    let text = b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n";
    let mut scanner = Scanner::new();
    let first = scanner.feed(text).next().unwrap();
    assert_eq!(first.end, 9);
    assert_eq!(
        scan(&mut scanner, &text[9..]),
        [(9, Kind::Data), (23, Kind::Done)]
    );
}

#[test]
fn blank_lines_that_end_nothing_with_data_are_known() {
    let mut scanner = Scanner::new();
    let mut free = |chunk: &[u8]| {
        let mut events = scanner.feed(chunk);
        while events.next().is_some() {}
        events.free()
    };
    assert_eq!(free(b": one\n\n: two\n\nid: 1\n"), 14);
    assert_eq!(free(b"event: x\n"), 0);
    assert_eq!(free(b"\n"), 1);
    assert_eq!(free(b"data: x\n\n"), 0);
    assert_eq!(free(b"\r"), 1);
    assert_eq!(free(b"\n"), 0);
    assert_eq!(free(b"\n: cut"), 1);
    assert_eq!(free(b"\n"), 0);
}
