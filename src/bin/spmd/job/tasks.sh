# One task for each size.
#@task
#@literal
case "$task" in
    #@tasks
    *)
        echo "error: no task has the number ${task:-that would be here}" >&2
        echo "  help: __HOW__" >&2
        exit 2
        ;;
esac
