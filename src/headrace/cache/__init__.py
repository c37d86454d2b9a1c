"""headrace.cache"""
