use super::*;

fn params<'a>(challenge: &'a Challenge<'_>) -> Vec<(&'a str, &'a str)> {
    match &challenge.value {
        Value::Params(params) => params
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect(),
        Value::Token68(_) => panic!("not parameters"),
    }
}

#[test]
fn several_challenges_in_one_value_are_told_apart() {
    // RFC 9110 section 11.6.1.
    let text = r#"Basic realm="simple", Newauth realm="apps", type=1, title="Login to \"apps\"""#;
    let all = Challenge::parse_list(text).unwrap();
    let [basic, new] = all.as_slice() else {
        panic!("{all:?}")
    };
    assert!(basic.is("basic"));
    assert_eq!(params(basic), [("realm", "simple")]);
    assert_eq!(
        params(new),
        [
            ("realm", "apps"),
            ("type", "1"),
            ("title", r#"Login to "apps""#)
        ]
    );
    assert_eq!(new.param("TITLE"), Some(r#"Login to "apps""#));
}

#[test]
fn schemes_alone_and_with_token68_are_read() {
    let all = Challenge::parse_list("Negotiate, ,Bearer abc==, Basic  YTpi ,").unwrap();
    let values: Vec<_> = all.iter().map(|one| (one.scheme, &one.value)).collect();
    assert_eq!(
        values,
        [
            ("Negotiate", &Value::Params(vec![])),
            ("Bearer", &Value::Token68("abc==")),
            ("Basic", &Value::Token68("YTpi")),
        ]
    );
}

#[test]
fn blanks_around_the_equals_sign_and_missing_ones_after_commas_are_taken() {
    let one = Challenge::parse_one("L402 macaroon = \"a\",invoice=\t\"b\"").unwrap();
    assert_eq!(params(&one), [("macaroon", "a"), ("invoice", "b")]);
}

#[test]
fn text_outside_the_grammar_is_refused() {
    let cases = [
        ("=", AuthError::Scheme { at: 0 }),
        ("Basic\"", AuthError::Scheme { at: 5 }),
        ("A b=\"c", AuthError::QuotedString { at: 6 }),
        ("A b=\"c\n\"", AuthError::QuotedString { at: 6 }),
        ("A b=\"\\", AuthError::QuotedString { at: 5 }),
        ("A b=1, b=2", AuthError::Duplicate { at: 10 }),
        ("A b=1 c", AuthError::Param { at: 6 }),
        ("A b= , c=1", AuthError::Scheme { at: 8 }),
        ("A b, c=1", AuthError::Scheme { at: 6 }),
        ("A b=\"x\"y", AuthError::Param { at: 7 }),
    ];
    for (text, error) in cases {
        assert_eq!(Challenge::parse_list(text), Err(error), "{text}");
    }
    assert!(Challenge::parse_one("").is_err());
    assert!(Challenge::parse_one("Basic a, Basic b").is_err());
}

#[test]
fn reading_is_bounded() {
    let long = "x".repeat(MAX_LEN + 1);
    let many = "A,".repeat(MAX_CHALLENGES + 1);
    let names: Vec<_> = (0..=MAX_PARAMS)
        .map(|index| format!("p{index}=1"))
        .collect();
    let wide = format!("A {}", names.join(","));
    for text in [long, many, wide] {
        assert_eq!(Challenge::parse_list(&text), Err(AuthError::TooLong));
    }
}

#[test]
fn what_is_written_is_read_back_and_never_breaks_the_line() {
    let one = Challenge {
        scheme: "L402",
        value: Value::Params(vec![("a", "say \"hi\\\"".into()), ("b", "x\r\ny\0".into())]),
    };
    let text = one.to_string();
    assert_eq!(text, r#"L402 a="say \"hi\\\"", b="xy""#);
    let read = Challenge::parse_one(&text).unwrap();
    assert_eq!(params(&read), [("a", "say \"hi\\\""), ("b", "xy")]);
}
