"""The words a statement may be made of: syntax nodes, typed functions, functions by name.

Allow-lists: what is not here is refused, so a function or a clause that an engine or the parser
learns tomorrow is refused too. The names of nodes are sqlglot's classes. None of the functions
reads a file, the network, the catalogue, the session or the clock of the process, waits, writes,
or makes a value much larger than its arguments.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STRUCTURE = _words(
    """
    Add Alias Aliases All And Any AtTimeZone Between BitwiseAnd BitwiseLeftShift BitwiseNot
    BitwiseOr BitwiseRightShift BitwiseXor Boolean Bracket CTE Case Collate Column Cube DPipe
    DataType DataTypeParam Distinct Div EQ Escape Except Exists Fetch Filter From GT GTE Glob Group
    GroupingSets Having ILike Identifier If IgnoreNulls In IntDiv Intersect Interval IntervalSpan Is
    JSONKeyValue JSONPath JSONPathKey JSONPathRoot JSONPathSubscript JSONPathWildcard Join LT LTE
    Lateral Like Limit LimitOptions Literal Match Mod Mul NEQ National Neg Not Null NullSafeEQ
    NullSafeNEQ Offset Or Order Ordered Paren Qualify RawString RecursiveWithSearch RegexpILike
    RegexpLike RespectNulls Rollup Select SimilarTo Slice Star Sub Subquery Table TableAlias
    TableSample Tuple Union Values Var Where Window WindowSpec With WithinGroup Xor
    """
)

FUNCTIONS = _words(
    """
    Abs Acos Acosh AnyValue ArgMax ArgMin Array ArrayAgg ArrayAll ArrayAny ArrayConcat ArrayContains
    ArrayContainsAll ArrayDistinct ArrayFirst ArrayLast ArrayMax ArrayMin ArrayOverlaps
    ArrayPosition ArraySize ArraySlice ArraySort ArraySum ArrayToString Ascii Asin Asinh Atan Atan2
    Atanh Avg BitLength BitwiseAndAgg BitwiseOrAgg BitwiseXorAgg ByteLength Cast Cbrt Ceil Chr
    Coalesce Concat ConcatWs Contains Convert Corr Cos Cosh Cot Count CountIf CovarPop CovarSamp
    CumeDist CurrentDate CurrentDatetime CurrentTime CurrentTimestamp Date DateAdd DateBin DateDiff
    DateFromParts DateStrToDate DateSub DateToDateStr DateTrunc Datetime DatetimeAdd DatetimeDiff
    DatetimeSub DatetimeTrunc Day DayOfMonth DayOfWeek DayOfWeekIso DayOfYear Dayname Degrees
    DenseRank EndsWith Exp Explode ExplodingGenerateSeries Extract First FirstValue Floor
    GenerateSeries Greatest GroupConcat Grouping GroupingId Hex Hour If Initcap IsInf IsNan
    JSONArrayAgg JSONArrayContains JSONBContains JSONBExists JSONBExtract JSONBExtractScalar
    JSONExists JSONExtract JSONExtractArray JSONExtractScalar JSONKeys JSONObject JSONObjectAgg
    JSONType JustifyDays JustifyHours JustifyInterval Kurtosis Lag Last LastDay LastValue Lead Least
    Left Length Levenshtein List Ln Localtime Localtimestamp Log LogicalAnd LogicalOr Lower MD5
    MakeInterval Max Median Min Minute Mode Month Monthname MonthsBetween NthValue Ntile Nullif
    NumberToStr Nvl2 Overlay Pad ParseJSON PercentRank PercentileCont PercentileDisc Pi Posexplode
    Pow Quantile Quarter Radians Rank RegexpCount RegexpExtract RegexpExtractAll RegexpFullMatch
    RegexpInstr RegexpReplace RegexpSplit RegexpSubstr RegrAvgx RegrAvgy RegrCount RegrIntercept
    RegrR2 RegrSlope Replace Reverse Right Rint Round RowNumber SafeDivide Second Sign Sin Sinh
    Skewness Soundex Split SplitPart Sqrt StartsWith Stddev StddevPop StddevSamp StrPosition
    StrToDate StrToTime StrToUnix StringToArray Struct StructExtract Substring SubstringIndex Sum
    Tan Tanh Time TimeAdd TimeDiff TimeFromParts TimeStrToDate TimeStrToTime TimeStrToUnix TimeSub
    TimeToStr TimeToUnix TimeTrunc Timestamp TimestampAdd TimestampDiff TimestampFromParts
    TimestampSub TimestampTrunc ToChar ToDays ToNumber Translate Trim Trunc Try TryCast TsOrDsAdd
    TsOrDsDiff TsOrDsToDate TsOrDsToDateStr TsOrDsToDatetime TsOrDsToTime TsOrDsToTimestamp Typeof
    Unhex Unicode UnixDate UnixMicros UnixMillis UnixSeconds UnixToStr UnixToTime UnixToTimeStr
    Unnest Upper UtcDate UtcTime UtcTimestamp Variance VariancePop Week WeekOfYear WidthBucket Year
    YearOfWeek YearOfWeekIso
    """
)

_SQLITE = _words(
    """
    abs avg char coalesce concat concat_ws count cume_dist date datetime dense_rank exp first_value
    floor glob group_concat hex ifnull iif instr json json_array json_array_length json_each
    json_extract json_group_array json_group_object json_object json_quote json_tree json_type
    json_valid julianday lag last_value lead length like lower ltrim max median min nth_value ntile
    nullif octet_length percent_rank percentile percentile_cont percentile_disc pow power quote rank
    replace round row_number rtrim sign sqrt strftime string_agg substr substring sum time timediff
    total trim typeof unicode unixepoch upper
    """
)
_POSTGRES = _words(
    """
    age array_length array_lower array_positions array_remove array_replace array_upper bit_count
    bool_and bool_or btrim cardinality ceiling char_length character_length clock_timestamp
    convert_from date_part div erf every gcd isfinite json_agg json_array_elements
    json_array_elements_text json_array_length json_each json_each_text json_extract_path
    json_extract_path_text json_object_agg json_object_keys json_typeof jsonb_agg
    jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_each jsonb_each_text
    jsonb_extract_path jsonb_extract_path_text jsonb_object_agg jsonb_object_keys jsonb_path_exists
    jsonb_path_query jsonb_typeof justify_days justify_hours lcm make_date make_time make_timestamp
    make_timestamptz min_scale now num_nonnulls num_nulls octet_length plainto_tsquery position
    quote_literal regexp_match regexp_matches regexp_split_to_array regexp_split_to_table
    row_to_json scale similarity statement_timestamp string_to_table strpos to_date to_json to_jsonb
    to_timestamp to_tsquery to_tsvector transaction_timestamp trim_array trim_scale ts_rank unaccent
    width_bucket
    """
)
_MYSQL = _words(
    """
    adddate addtime any_value bit_count ceiling char_length character_length concat_ws conv crc32
    curdate curtime date_format dayname dayofmonth dayofweek dayofyear elt export_set field
    find_in_set format from_days from_unixtime hour ifnull inet_aton inet_ntoa instr isnull
    json_array json_array_length json_arrayagg json_contains json_contains_path json_depth
    json_extract json_keys json_length json_object json_objectagg json_quote json_search json_type
    json_unquote json_valid json_value locate makedate maketime microsecond mid minute month
    monthname now oct octet_length ord period_add period_diff position pow power quarter quote
    regexp_instr regexp_like regexp_replace regexp_substr sec_to_time second soundex std stddev
    strcmp subdate substr subtime time_format time_to_sec timediff timestampadd to_days to_seconds
    truncate unix_timestamp utc_date utc_time utc_timestamp var_pop var_samp variance week weekday
    weekofyear year yearweek
    """
)
_DUCKDB = _words(
    """
    age approx_count_distinct approx_quantile array_agg array_extract array_to_string bit_count
    bool_and bool_or cardinality ceiling century date_add date_part date_sub date_trunc datediff
    datepart datesub dayname dayofmonth dayofweek dayofyear decade element_at entropy epoch epoch_ms
    era even favg fsum gamma generate_series geomean geometric_mean hamming hash histogram ifnull
    instr isfinite isodow isoyear jaccard jaro_similarity jaro_winkler_similarity json_array_length
    json_extract json_extract_string json_keys json_type json_valid julian last_day lcase len list
    list_aggregate list_concat list_contains list_distinct list_extract list_filter list_has
    list_position list_reduce list_slice list_sort list_sum list_transform list_unique list_value
    mad make_date make_time make_timestamp map_extract map_keys map_values max_by median microsecond
    millennium millisecond min_by mode monthname nextafter now ord prefix product quantile
    quantile_cont quantile_disc range regexp_extract regexp_extract_all regexp_matches
    regexp_replace regexp_split_to_array round_even row sem signbit skewness str_split strftime
    string_agg string_split strip_accents strlen strpos strptime struct_extract struct_pack suffix
    sum_no_overflow time_bucket timezone to_days to_hours to_minutes to_months to_seconds
    to_timestamp to_weeks to_years today trim try_strptime ucase unicode week weekday weekofyear
    yearweek
    """
)
ANONYMOUS = {
    "sqlite": _SQLITE,
    "postgres": _POSTGRES,
    "mysql": _MYSQL,
    "duckdb": _DUCKDB,
}
"""Functions the parser has no class for, by lower-case name."""

WRITES = _words(
    """
    Alter AlterColumn AlterRename Analyze Attach Cache Command Comment Commit Copy Create Declare
    Delete Describe Detach Drop Execute ExecuteSql Export Get Grant Insert Install Kill LoadData
    Merge MultitableInserts OnConflict Pragma Put Refresh RenameColumn Returning Revoke Rollback Set
    SetItem Show Summarize Transaction TruncateTable Uncache Update Use
    """
)

SYSTEM_PREFIXES = {
    "sqlite": ("sqlite_", "pragma_", "dbstat"),
    "postgres": ("pg_", "information_schema"),
    "mysql": ("information_schema", "performance_schema"),
    "duckdb": ("duckdb_", "pragma_", "pg_", "sqlite_", "information_schema"),
}
"""How the names of catalogue tables begin, lower case."""

SYSTEM_SCHEMAS = frozenset(
    {"information_schema", "pg_catalog", "pg_toast", "mysql", "performance_schema", "sys", "system", "temp"}
)
DEFAULT_SCHEMA = {"sqlite": "main", "postgres": "public", "duckdb": "main"}

SESSION_WORDS = frozenset(
    {
        "current_user",
        "session_user",
        "current_role",
        "current_catalog",
        "current_schema",
        "system_user",
        "user",
    }
)
"""Bare words that are functions in PostgreSQL and its kin, though they parse as columns."""

FORBIDDEN_TYPES = frozenset({"ObjectIdentifier", "PseudoType"})
"""Casts to them look names up in the catalogue."""
