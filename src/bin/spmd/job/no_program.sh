if [ $# -eq 0 ]; then
    echo "error: no program given" >&2
    echo "  help: __SUBMIT__ $(basename "$0") PROGRAM [ARGUMENT]..." >&2
    exit 2
fi
